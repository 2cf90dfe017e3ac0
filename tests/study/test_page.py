"""The study's page from a folder with planted answers: it finds them, and no others."""

from __future__ import annotations

import csv
import os
import re

import pytest

from gprl_lightning.cli import report
from gprl_lightning.study import page
from gprl_lightning.study.claims import BASELINE, CLAIMS, FULL, Claim, claims_for
from gprl_lightning.study.comparison import by_arm, compare
from gprl_lightning.study.figures import arms_figure, main_figure
from gprl_lightning.study.page import write_study
from gprl_lightning.study.runs import is_grid, read_grid
from gprl_lightning.study.settings import by_setting, settings_figure
from gprl_lightning.study.stopping import CLOCK, FIXED_BETA
from tests.composing import options
from tests.processes import run_forked
from tests.study.synthetic_grid import ITERATIONS, planted, write_run


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = planted(tmp_path_factory.mktemp("grid_planted"))
    write_run(folder, "gold_reward", 0, [0.5] * 5, [0.0] * 5, finished=False)
    return folder, write_study(folder)


@pytest.fixture
def no_pictures(monkeypatch):
    """For what is read from words and tables alone: drawing takes longer than all else."""
    monkeypatch.setattr(page, "_pictures", lambda *_: {})


def _rows(folder, name):
    with (folder / "report" / name).open(encoding="utf8") as file:
        return list(csv.DictReader(file))


def _comparison(folder, arm, against):
    claim = next(
        c for c in claims_for(["grpo_bt", "none", "no_drift", "kl_only"])
        if (c.arm, c.against) == (arm, against)
    )  # fmt: skip
    return compare(by_arm(read_grid(folder)), claim)


def test_runs_are_read_in_the_grid_s_order_and_unfinished_ones_left_out(study):
    runs = read_grid(study[0])
    assert list(dict.fromkeys(r.arm for r in runs)) == ["grpo_bt", "none", "no_drift", "kl_only"]
    assert [r.seed for r in runs if r.arm == "none"] == [0, 1, 2, 3, 4, 5]
    assert runs[0].distance() == pytest.approx([0, 2, 4, 6, 8])


def test_a_planted_difference_is_found(study):
    """.7 less the mean of .4 and .2: 40 points at the horizon. Over the far half of √KL, 4 to 8:
    .7 less the mean of .6 to .4 and .4 to .2. A clock that stops the other at 20 has .625."""
    found = _comparison(study[0], FULL, BASELINE)
    assert found.seeds == (0, 1, 2, 3, 4, 5)
    assert found.horizon.interval.mean == pytest.approx(0.4, abs=0.02)
    assert found.frontier.interval.mean == pytest.approx(0.3, abs=0.02)
    assert found.stops[CLOCK].interval.mean == pytest.approx(0.075, abs=0.02)
    assert found.stops[FIXED_BETA].interval == found.horizon.interval, "one β: as it is"
    assert (found.frontier.verdict, found.stop) == ("better", "better")
    assert "56.51" in found.claim.paper


def test_no_difference_is_an_equivalence(study):
    found = _comparison(study[0], FULL, "no_drift")
    assert (found.frontier.verdict, found.stop) == ("equivalent", "equivalent")


def test_being_ahead_for_having_moved_less_is_found_out(study):
    """At the horizon `kl_only` is 20 points and more ahead of GRPO + BT; at equal √KL it is not,
    nor is it ahead of GRPO + BT that a clock or a trigger stops."""
    found = _comparison(study[0], "kl_only", BASELINE)
    assert found.horizon.verdict == "better" and found.horizon.interval.mean > 0.2
    assert found.frontier.interval.mean == pytest.approx(0, abs=0.01)
    assert (found.frontier.verdict, found.stop) == ("equivalent", "equivalent")


def test_tuning_seeds_choose_and_are_not_compared(study):
    claim = Claim(FULL, BASELINE, "")
    arms = by_arm(read_grid(study[0]))
    found = compare(arms, claim, tuning=[0, 1])
    assert found.seeds == (2, 3, 4, 5) and found.stop == "undecided", "four are too few"
    with pytest.raises(ValueError, match="expected a seed that both have"):
        compare(arms, claim, tuning=range(6))


def test_the_tables(study):
    rows = {row["arm"]: row for row in _rows(study[0], "arms.csv")}
    assert set(rows) == {"GRPO + BT", "GPRL, full", "GPRL, no controller", "GPRL, KL only"}
    row = rows["GRPO + BT"]
    # Smoothed .575, .583, .55, .4, .3; the proxy climbs to the end, where the gold is .2.
    assert float(row["peak gold"]) == pytest.approx(0.583, abs=0.03)
    assert float(row["worst drop"]) == pytest.approx(0.283, abs=0.03)
    assert float(row["gain over the start"]) == pytest.approx(-0.2, abs=0.03)
    assert float(row["gold where the proxy is best"]) == pytest.approx(0.2, abs=0.03)
    assert float(row["KL final"]) == 64 and row["β final"] == ""
    # Six of six, and none of six: exact intervals from .025^(1/6).
    assert [float(row[f"collapse rate{end}"]) for end in ("", " low", " high")] == [1, 0.5407, 1]
    assert float(rows["GPRL, full"]["collapse rate high"]) == pytest.approx(0.4593)
    assert float(rows["GPRL, full"]["active steps"]) == 2
    first = _rows(study[0], "comparisons.csv")[0]
    assert first["seeds"] == "0 1 2 3 4 5"
    assert (first["frontier verdict"], first["better stop"]) == ("better", "better")
    assert float(first["horizon"]) == pytest.approx(40, abs=2)
    assert float(first["horizon low"]) > 30
    assert float(first["horizon sign-flip p"]) == pytest.approx(2 / 64, abs=1e-4)
    curves = _rows(study[0], "curves.csv")
    assert len(curves) == 4 * 6 * len(ITERATIONS)
    assert {"eval/kl", "eval/gold/fluency", "eval/win_rate_odd"} <= curves[0].keys()


def test_the_page_is_one_file_with_everything_in_it(study):
    folder, page = study
    text = page.read_text(encoding="utf8")
    pictures = sorted((folder / "report").glob("*.png"))
    assert len(pictures) == 8
    assert text.count("data:image/png;base64,") == len(pictures)
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and "http" not in text
    assert "supported" not in text and "second-hand" in text and "abc123" in text
    assert '<td class="better">better</td>' in text
    assert '<td class="equivalent">equivalent</td>' in text
    assert "GPRL resists over-optimisation better than GRPO + BT" in text


def test_the_command_s_options_reach_the_verdicts(tmp_path, no_pictures):
    folder = planted(tmp_path)
    assert report.main([str(folder), "--tuning-seeds", "0,1"]) == 0
    assert _rows(folder, "comparisons.csv")[0]["seeds"] == "2 3 4 5"
    report.main([str(folder), "--looks", "6,12"])
    assert _rows(folder, "comparisons.csv")[0]["frontier verdict"] == "undecided"


def test_two_seeds_leave_it_undecided(tmp_path, no_pictures):
    folder = planted(tmp_path, seeds=2)
    assert "undecided" in write_study(folder).read_text(encoding="utf8")
    rows = _rows(folder, "comparisons.csv")
    assert {row[key] for row in rows for key in ("frontier verdict", "better stop")} == {
        "undecided"
    }


def test_a_first_look_of_two_is_stricter(tmp_path, no_pictures):
    """Six of twelve seeds spend .0056, which no six sign flips come to."""
    folder = planted(tmp_path)
    write_study(folder, looks=[6, 12])
    assert _rows(folder, "comparisons.csv")[0]["frontier verdict"] == "undecided"
    with pytest.raises(ValueError, match="expected a look at 6 seeds"):
        write_study(folder, looks=[5, 12])


def test_a_grid_of_other_arms_is_compared_with_its_first(tmp_path, no_pictures):
    for arm in ("mine", "yours"):
        for seed in range(3):
            write_run(tmp_path, arm, seed, [0.5, 0.6, 0.6, 0.6, 0.6], [0.0, 1, 2, 3, 4])
    write_study(tmp_path)
    (row,) = _rows(tmp_path, "comparisons.csv")
    assert (row["arm"], row["against"]) == ("yours", "mine")
    assert (row["frontier verdict"], row["better stop"]) == ("equivalent", "equivalent")


def test_a_run_without_its_distance_is_refused(tmp_path):
    job = write_run(tmp_path, "none", 0, [0.5] * 5, [0.0] * 5)
    file = job / "metrics.csv"
    file.write_text(file.read_text().replace("eval/kl", "eval/other"))
    with pytest.raises(ValueError, match="expected eval/kl in its metrics"):
        read_grid(tmp_path)


def test_a_grid_over_settings_compares_within_each():
    arms = [f"{arm} beta={beta}" for beta in (1, 2) for arm in ("grpo_bt", "none", "mine")]
    pairs = {(c.arm, c.against): c.says for c in claims_for(arms)}
    assert len(pairs) == 6
    assert all(arm.split()[1] == against.split()[1] for arm, against in pairs)
    says = pairs["none beta=2", "grpo_bt beta=2"]
    assert says == "GPRL resists over-optimisation better than GRPO + BT, beta=2"
    assert ("mine beta=1", "grpo_bt beta=1") in pairs and ("none beta=1", "mine beta=1") in pairs


def test_a_grid_over_settings_has_their_picture(tmp_path, study):
    for arm in ("mine algorithm.kl_coef=1", "yours algorithm.kl_coef=1", "mine other.lr=2"):
        for seed in range(2):
            write_run(tmp_path, arm, seed, [0.5, 0.6, 0.6, 0.6, 0.6], [0.0, 1, 2, 3, 4])
    arms = by_arm(read_grid(tmp_path))
    found = {s: {p: len(runs) for p, runs in by.items()} for s, by in by_setting(arms).items()}
    assert found == {"algorithm.kl_coef=1": {"mine": 2, "yours": 2}, "other.lr=2": {"mine": 2}}
    figure = settings_figure(arms)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["kl_coef=1", "lr=2"]
    dots = [len(c.get_offsets()) for c in figure.axes[0].collections]
    assert sum(dots) == 6, "every seed of every method in its setting"
    assert settings_figure(by_arm(read_grid(study[0]))) is None


def test_arms_over_settings_are_in_the_grid_s_order_too(tmp_path):
    for arm in ("a", "b", "c"):
        for beta in (1, 2):
            write_run(tmp_path, f"{arm} algorithm.kl_coef={beta}", 0, [0.5] * 5, [0.0, 1, 2, 3, 4])
    (tmp_path / "multirun.yaml").write_text("hydra: {sweeper: {params: {ablation: 'c,a,b'}}}")
    arms = list(by_arm(read_grid(tmp_path)))
    assert arms == [f"{arm} algorithm.kl_coef={beta}" for arm in "cab" for beta in (1, 2)]


def test_many_methods_over_settings_are_tiles_with_the_means_over_seeds(tmp_path):
    for arm in range(9):
        for beta in (1, 2):
            if (arm, beta) == (8, 2):
                continue
            for seed, end in ((0, 0.1 * beta), (1, 0.1 * beta + 0.01 * arm)):
                name = f"arm{arm} algorithm.kl_coef={beta}"
                write_run(tmp_path, name, seed, [0.5, 0.6, 0.6, end, end], [0.0, 1, 2, 3, 4])
    panel = settings_figure(by_arm(read_grid(tmp_path))).axes[0]
    assert [t.get_text() for t in panel.get_yticklabels()] == [f"arm{i}" for i in range(9)]
    texts = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in panel.texts}
    expected = {(a, b): f"{0.1 * (b + 1) + 0.005 * a:.2f}" for a in range(9) for b in range(2)}
    del expected[8, 1]  # was not run
    assert texts == expected


@pytest.mark.parametrize(
    "more,shown",
    [("a", ["GPRL, full", "GRPO + BT", "a"]), ("abcdefg", ["GRPO + BT", "GPRL, full"])],
)
def test_a_small_grid_shows_all_of_its_arms_together_and_a_large_one_the_main_ones(
    tmp_path, more, shown
):
    for arm in (FULL, BASELINE, *more):
        write_run(tmp_path, arm, 0, [0.5, 0.6, 0.6, 0.6, 0.6], [0.0, 1, 2, 3, 4])
    arms = by_arm(read_grid(tmp_path))
    legend = main_figure(arms).axes[0].get_legend()
    assert sorted(t.get_text() for t in legend.get_texts()) == sorted(shown)


def test_the_lowest_panel_of_each_column_has_its_iterations(tmp_path):
    """Five arms in four columns: three of the upper panels are the lowest of theirs."""
    for arm in "abcde":
        write_run(tmp_path, arm, 0, [0.5] * 5, [0.0, 1, 2, 3, 4])
    figure = arms_figure(by_arm(read_grid(tmp_path)), "iteration")
    shown = [panel.xaxis.get_tick_params()["labelbottom"] for panel in figure.axes[:5]]
    assert shown == [False, True, True, True, True]


def test_every_claim_is_of_arms_that_exist():
    arms = set(options("ablation"))
    assert {a for c in CLAIMS for a in (c.arm, c.against)} <= arms


def test_the_command_of_a_grid_and_of_a_run(study):
    folder = study[0]
    assert is_grid(folder) and not is_grid(folder / "ablation=none,seed=0")
    for target, made in (
        (folder, folder / "report" / "index.html"),
        (folder / "ablation=none,seed=0", folder / "ablation=none,seed=0" / "report.png"),
    ):
        made.unlink(missing_ok=True)
        done = run_forked(["-m", "gprl_lightning", "report", str(target)], os.environ, 300)
        assert done.returncode == 0, done.stderr[-2000:]
        assert made.exists() and str(made) in done.stdout
