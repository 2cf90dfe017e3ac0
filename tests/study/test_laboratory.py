"""The laboratory's verdicts on planted runs, what it refuses, and its registered plan."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import yaml

from gprl_lightning.study.intervals import quantile
from gprl_lightning.study.laboratory_figure import pictures_of
from gprl_lightning.study.laboratory_judge import (
    find,
    gold_difference,
    judge_primary,
    judge_secondary,
)
from gprl_lightning.study.laboratory_page import measured_part, measures_of
from gprl_lightning.study.laboratory_plan import (
    ACCURACY,
    ARMS,
    BETAS,
    CHOSEN_ON,
    GOLD,
    HYPOTHESES,
    LOG_GATE_SPREAD,
    MAP,
    PRIMARY,
    TUNED,
    TUNING_SEEDS,
    VERDICT_SEEDS,
)
from gprl_lightning.study.laboratory_records import Label, read, write
from gprl_lightning.study.laboratory_tuning import chosen, require_chosen, stopped
from gprl_lightning.study.verdicts import detectable_at
from tests.composing import ROOT
from tests.study.planted_laboratory import AS_EXPECTED, MODELS_AS_EXPECTED, run, study

WORDS = ("better", "worse", "equivalent", "undecided", "holds", "refuted")
CONTRASTS = [c for contrasts in HYPOTHESES.values() for c in contrasts]


def secondary(gold=AS_EXPECTED, models=MODELS_AS_EXPECTED, **options):
    rng = np.random.default_rng(0)
    return judge_secondary(measures_of(study(rng, gold, models, **options)))


# The plan


def test_the_plan_is_of_a_piece():
    asked = [arm for c in (PRIMARY, *CONTRASTS) for arm in c.weights]
    assert {arm for arm, what in ARMS.items() if not what.explores} == {*asked}
    assert all(abs(sum(c.weights.values())) < 1e-12 for c in (PRIMARY, *CONTRASTS))
    assert not {*TUNING_SEEDS} & {*VERDICT_SEEDS} and len(VERDICT_SEEDS) == 20
    assert len(BETAS) == 5 and len(HYPOTHESES) == 6
    assert {arm for arms in MAP.values() for arm in arms} <= set(ARMS)


def test_the_preregistration_says_what_the_plan_says():
    text = (ROOT / "docs/preregistration.md").read_text(encoding="utf8")
    told = " ".join(text.split())
    for contrast in (PRIMARY, *CONTRASTS):
        assert contrast.says in told, contrast.says
    words = {*ARMS, *TUNED.values()}
    assert {word for word in words if f"`{word}`" in text} == words
    assert "100 to 119" in told and "0 to 4" in told
    assert ", ".join(f"{beta:g}" for beta in BETAS) in told


@pytest.mark.parametrize("spread, points", [(26, 17), (11, 7)])
def test_what_twenty_seeds_can_detect(spread, points):
    """Simulated: of the studies with that true difference, Student's test finds four of five."""
    least = detectable_at(spread, 20)
    assert round(least) == points
    values = np.random.default_rng(0).normal(least, spread, (20_000, 20))
    t = values.mean(1) / (values.std(1, ddof=1) / math.sqrt(20))
    assert (t > quantile(19, 0.975)).mean() == pytest.approx(0.8, abs=0.015)


# Planted truths


@pytest.mark.parametrize(
    "true, spread, word",
    [(0.15, 0.08, "better"), (-0.15, 0.08, "worse"), (0.0, 0.02, "equivalent"),
     (0.02, 0.01, "equivalent"), (0.05, 0.2, "undecided")],
)  # fmt: skip
def test_the_primary_gets_the_word_of_its_truth(true, spread, word):
    gold = {"bt_best": 0.6, "full_best": 0.6 + true}
    kept = study(np.random.default_rng(3), gold, {}, spread=spread)
    found = judge_primary(measures_of(kept))
    assert found.paired is not None and found.paired.verdict == word


def test_no_difference_is_seldom_called_one():
    rng = np.random.default_rng(0)
    gold = {"bt_best": 0.6, "full_best": 0.6}
    found = [judge_primary(measures_of(study(rng, gold, {}, spread=0.18))) for _ in range(60)]
    wrong = sum(f.paired is not None and f.paired.verdict in ("better", "worse") for f in found)
    assert wrong <= 7  # 3 of 60 are to be expected; more than 7 in less than 1 % of such tests


def test_before_the_last_seed_there_is_no_word():
    kept = study(np.random.default_rng(0), seeds=VERDICT_SEEDS[:19])
    measures = measures_of(kept)
    assert judge_primary(measures).paired is None
    assert {j.word for j in judge_secondary(measures).values()} == {"interim"}
    pictures = {name: f"{name}.png" for name in ("worlds", "map")}
    text = measured_part(kept, pictures)
    table = text[text.index("### Primary") : text.index("### By world")]
    cells = [cell.strip() for line in table.splitlines() for cell in line.split("|")]
    assert "Interim, no verdict" in text and not {*cells} & {*WORDS} - {"better", "worse"}
    assert cells.count("interim, no verdict") == 1 + len(HYPOTHESES)
    assert "19 of 20" in text and "points | seeds" in text


def test_the_map_holds_registered_differences_back():
    """The first row of the map is H1's first contrast; the last is no contrast of the plan."""
    rows = [*MAP.values()]
    arms = {arm for pair in rows for arm in pair}
    for count, told in ((19, False), (20, True)):
        measures = {a: {s: {GOLD: 0.5} for s in VERDICT_SEEDS[:count]} for a in arms}
        found = [gold_difference(measures, *pair) for pair in (rows[0], rows[-1])]
        assert [seeds for seeds, _ in found] == [count, count]
        assert [not math.isnan(i.mean) for _, i in found] == [told, True]


def test_every_hypothesis_holds_where_it_is_true():
    assert {name: j.word for name, j in secondary().items()} == dict.fromkeys(HYPOTHESES, "holds")


@pytest.mark.parametrize(
    "moved, name, word",
    [
        ({"clean_per_axis": 0.95, "clean_floored": 0.95}, "H1", "refuted"),
        ({"clean_floored": 0.83}, "H1", "refuted"),  # removes a fifth of the loss
        ({"clean_beta10": 0.93}, "H1", "refuted"),  # a shorter leash does it, too
        ({"hackable_per_axis": 0.60}, "H2", "refuted"),
        ({"hackable_scalar_best": 0.60}, "H2", "refuted"),
        ({"clean_full": 0.80}, "H3", "refuted"),
        ({"clean_downward": 0.80}, "H3", "refuted"),
        ({"hackable_full_twice": 0.60}, "H4", "refuted"),
        ({"firm": 0.60}, "H5", "refuted"),
        ({"bt_firm": 0.65}, "H5", "undecided"),
    ],
)
def test_one_contrast_that_is_not_true_is_enough(moved, name, word):
    spread = 0.2 if word == "undecided" else 0.03
    found = secondary(AS_EXPECTED | moved, spread=spread)
    assert found[name].word == word


@pytest.mark.parametrize(
    "measure, value, word",
    [(LOG_GATE_SPREAD, np.log(0.10), "refuted"), (ACCURACY, 0.79, "refuted"),
     (ACCURACY, 0.8105, "undecided")],
)  # fmt: skip
def test_the_models_hypothesis(measure, value, word):
    moved = MODELS_AS_EXPECTED["model_answer_only"] | {measure: value}
    found = secondary(models=MODELS_AS_EXPECTED | {"model_answer_only": moved})
    assert found["H6"].word == word


def test_a_hypothesis_that_waits_takes_no_word_back():
    """Unfinished ones count with p = 1: the adjusted p of the others can only fall."""
    rng = np.random.default_rng(0)
    kept = study(rng)
    some = [one for one in kept if not one.label.arm.startswith(("hackable", "model"))]
    early, late = (judge_secondary(measures_of(k)) for k in (some, kept))
    assert early["H1"].word == "holds" and early["H2"].word == "interim"
    assert all(late[name].chance <= early[name].chance for name in ("H1", "H3"))


def test_a_contrast_is_its_weighted_sum_by_loops():
    kept = study(np.random.default_rng(1))
    measures = measures_of(kept)
    gold = {(one.label.arm, one.label.seed): one.measures[GOLD] for one in kept if one.curves}
    third = HYPOTHESES["H1"][1]
    expected = [
        gold["clean_floored", s] - gold["clean_per_axis", s] / 3 - 2 * gold["clean_scalar", s] / 3
        for s in VERDICT_SEEDS
    ]
    found = find(measures, third).paired
    assert found is not None and found.interval.mean == pytest.approx(np.mean(expected))


# β


def tuning(arm="bt", seeds=(0, 1), best: float | None = 0.03):
    return [run(arm, seed, 0.8 if beta == best else 0.6, beta) for beta in BETAS for seed in seeds]


def test_beta_is_chosen_on_tuning_seeds_alone():
    """Verdict runs, however good, and tuning seeds that were not named have no say."""
    loud = [run("bt_best", seed, 0.99, kl_coef=1.0) for seed in VERDICT_SEEDS]
    later = tuning(seeds=(2,), best=0.3)
    assert chosen([*tuning(), *loud, *later], "bt", (0, 1)) == 0.03
    assert chosen([*tuning(), *later], "bt", (2,)) == 0.3
    assert chosen(tuning(best=None), "bt", (0, 1)) == BETAS[0]  # of equals the smallest
    with pytest.raises(ValueError, match=r"not whole on \[3\]"):
        chosen(tuning(), "bt", (0, 3))


def test_no_verdict_run_of_a_tuned_arm_before_its_beta_is_chosen(monkeypatch):
    monkeypatch.delitem(CHOSEN_ON, "bt", raising=False)
    with pytest.raises(ValueError, match="expected its β to be chosen"):
        require_chosen(tuning(), "bt_best", {"algorithm.kl_coef": 0.03})
    monkeypatch.setitem(CHOSEN_ON, "bt", (0, 1))
    require_chosen(tuning(), "bt_best", {"algorithm.kl_coef": 0.03})
    with pytest.raises(ValueError, match=r"kl_coef=0\.03, which tuning seeds \[0, 1\] choose"):
        require_chosen(tuning(), "bt_best", {"algorithm.kl_coef": 0.1})


def test_clock_and_trigger_are_chosen_on_tuning_seeds(monkeypatch):
    """Gold falls after iteration 40 on tuning seeds; verdict runs that never fall are stopped."""
    monkeypatch.setitem(CHOSEN_ON, "bt", (0, 1))
    steps = np.arange(0, 81, 10)
    falls = (0.5 + 0.3 * np.where(steps <= 40, steps / 40, 2 - steps / 40)).tolist()
    tuned = [
        replace(one, curves=one.curves | {"eval/win_rate": falls})
        if one.label.beta == 0.03
        else one
        for one in tuning()
    ]
    kept = [*tuned, run("bt_best", 100, 0.9, kl_coef=0.03)]
    rises = kept[-1].curves["eval/win_rate"]
    expected = (rises[3] + rises[4]) / 2  # at 40 the mean of the last two is best
    found = stopped(kept, "bt_best")
    assert found["clock"] == {100: pytest.approx(expected)}
    assert found["KL trigger"] == {100: pytest.approx(expected)}
    assert stopped(kept[:-1], "bt_best") == {}


def test_arms_of_one_choice_have_one_beta():
    """Registered by hand in several files: none may lag behind."""
    betas: dict[str, set[float]] = {}
    for arm, tuned in TUNED.items():
        file = yaml.safe_load((ROOT / f"conf/ablation/laboratory/{arm}.yaml").read_text())
        betas.setdefault(tuned, set()).add(file["algorithm"]["kl_coef"])
    assert all(len(found) == 1 and found <= {*BETAS} for found in betas.values()), betas


# Files


def plain(label):
    return {"algorithm.kl_coef": 0.1 if label.beta is None else label.beta}


def test_what_is_written_is_read(tmp_path):
    kept = [run("bt_best", 100, 0.7), *tuning(seeds=(0,))]
    for one in kept:
        write(one, tmp_path)
    assert (tmp_path / "bt_beta0.03_seed0.json").exists()
    assert sorted(read(tmp_path, plain), key=str) == sorted(kept, key=str)
    assert (tmp_path / "bt_best_seed100.json").stat().st_size < 2_000


def test_a_run_of_another_configuration_is_refused(tmp_path):
    write(replace(run("bt_best", 100, 0.7), settings={"algorithm.kl_coef": 0.3}), tmp_path)
    with pytest.raises(ValueError, match=r"bt_best_seed100: expected the registered.*=0\.3"):
        read(tmp_path, plain)


@pytest.mark.parametrize(
    "label", [Label("bt_best", 7), Label("bt", 100), Label("bt", 0, 0.5), Label("bt", 9, 0.1),
              Label("clean_scalar", 0, 0.1)], ids=str,
)  # fmt: skip
def test_a_run_that_is_not_in_the_plan_is_refused(label, tmp_path):
    write(replace(run("bt_best", 100, 0.7), label=label), tmp_path)
    with pytest.raises(ValueError, match="expected a registered arm on a verdict seed"):
        read(tmp_path, plain)


def test_a_renamed_file_and_another_horizon_are_refused(tmp_path):
    file = write(run("bt_best", 100, 0.7), tmp_path)
    moved = file.rename(tmp_path / "full_best_seed100.json")
    with pytest.raises(ValueError, match="the run that its name tells"):
        read(tmp_path, plain)
    moved.rename(file)
    values = json.loads(file.read_text()) | {"iterations": [0, 10]}
    values["label"]["seed"] = 101
    (tmp_path / "bt_best_seed101.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="at the same iterations"):
        read(tmp_path, plain)


# The page


def test_the_page_of_a_complete_study(monkeypatch, tmp_path):
    for arm in TUNED.values():
        monkeypatch.setitem(CHOSEN_ON, arm, (0, 1))
    kept = [*study(np.random.default_rng(0)), *tuning(), *tuning("full", best=0.1)]
    kept += tuning("hackable_scalar", best=1.0)
    text = measured_part(kept, {"verdicts": "v.png", "worlds": "w.png", "map": "m.png"})
    assert "**Complete.** Seeds of 20: 20" in text and "![" in text
    row = next(r for r in text.splitlines() if "ends higher than GRPO" in r)
    assert row.endswith("| better |") and "+1" in row
    assert text.count("| holds |") == 6 and "Nothing of what was registered" in text
    assert "| × 4." in text  # the gate's spread, .16 over .04
    assert "| GRPO + BT, best fixed β | 0.600 | 0.800 | 0.600 |" in text
    drawn = pictures_of(kept)
    assert list(drawn) == ["worlds", "map", "verdicts"]
    drawn["map"].savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 10_000


def test_remedies_are_held_against_the_best_fixed_beta_on_the_same_seeds():
    kept = [run("bt_best", seed, 0.6 + seed / 1000) for seed in VERDICT_SEEDS]
    kept += [run("bt_chi2", seed, 0.7 + seed / 1000) for seed in VERDICT_SEEDS[:3]]
    text = measured_part(kept, {})
    table = text[text.index("### Remedies") : text.index("### When")]
    assert "| GRPO + BT, √χ² for KL | +10.0 [+10.0, +10.0] | 3 |" in table
    assert "| MO-GRPO | – | 0 |" in table


def test_a_page_without_runs_says_so():
    text = measured_part([], {})
    assert "0 of the primary's arms" in text and "No run on a verdict seed yet" in text
    assert pictures_of([]) == {}
