"""The baselines' page from a folder with planted answers, and what it counts and adjusts."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from gprl_lightning.cli import baselines as command
from gprl_lightning.config.validation import validate
from gprl_lightning.errors import ConfigError
from gprl_lightning.study.baselines import Budget, arms_in, beside, budget_of, record_of
from gprl_lightning.study.baselines_page import BEGIN, END, measured_part, with_measured
from gprl_lightning.study.holm import holm
from gprl_lightning.study.intervals import quantile, student_test
from tests.composing import ROOT, composed, flat
from tests.study.synthetic_grid import write_run

FAR = [0.0, 1.0, 4.0, 9.0, 16.0]  # √KL: 0, 1, 2, 3, 4
ARMS = {  # gold at them
    "gprl": [0.5, 0.6, 0.6, 0.6, 0.6],
    "grpo_bt": [0.5, 0.7, 0.8, 0.8, 0.8],
    "rloo": [0.5, 0.6, 0.7, 0.7, 0.7],
    "dr_grpo": [0.5, 0.6, 0.7, 0.7, 0.7],
    "dpo": [0.5, 0.5, 0.5, 0.4, 0.4],
}


def plain(*overrides: str) -> dict:
    """A composed configuration as a run's config.yaml holds it."""
    cfg = composed(*overrides)
    validate(cfg)
    nested: dict = {}
    for key, value in flat(cfg).items():
        *sections, last = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return nested


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    """Six seeds of five words; GRPO + BT has a seventh that no other has."""
    folder = tmp_path_factory.mktemp("grid_baselines")
    rng = np.random.default_rng(1)
    for seed in range(7):
        common = rng.normal(0, 0.02)
        for arm, gold in ARMS.items():
            if seed == 6 and arm != "grpo_bt":
                continue
            noise = np.random.default_rng(seed if "rl" in arm or "dr" in arm else 50 + seed)
            curve = [float(v) for v in np.array(gold) + common + noise.normal(0, 0.004, 5)]
            job = write_run(folder, arm, seed, curve, FAR, key="algorithm")
            config = yaml.safe_dump(plain(f"algorithm={arm}", "experiment=study"))
            (job / "config.yaml").write_text(config)
    params = {"algorithm": ",".join(ARMS), "seed": "0,1,2,3,4,5,6"}
    config = {"hydra": {"sweeper": {"params": params}}}
    (folder / "multirun.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_arms_are_the_words_in_the_grids_order_on_seeds_that_all_have(grid):
    record = record_of(grid)
    arms, left_out = arms_in(record)
    assert list(arms) == list(ARMS) and left_out == [6]
    assert all(sorted(by_seed) == [0, 1, 2, 3, 4, 5] for by_seed in arms.values())
    assert arms["dpo"][3].distance() == pytest.approx([0, 1, 2, 3, 4])


def test_a_planted_difference_is_found(grid):
    """Over the far half of √KL, 2 to 4: .8 less .6 of GRPO + BT; .5, .4, .4 less .6 of DPO."""
    found = beside(arms_in(record_of(grid))[0], "gprl")
    better, worse = found["grpo_bt"].compared.frontier, found["dpo"].compared.frontier
    assert better.interval.mean == pytest.approx(0.2, abs=0.01) and better.verdict == "better"
    assert worse.interval.mean == pytest.approx(-0.175, abs=0.01) and worse.verdict == "worse"
    one = [b.compared.frontier.student for b in found.values()]
    assert [b.chance for b in found.values()] == holm(one)


def test_the_page_says_so_and_can_be_drawn_from_the_record_alone(grid, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{BEGIN}\nstale words\n{END}\nafter\n")
    assert command.main([str(grid), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Before\n") and text.endswith("\nafter\n")
    assert "stale words" not in text
    assert "5 words on 6 seeds (0, 1, 2, 3, 4, 5) (unfinished and left out: 6)" in text
    assert "RLOO and Dr. GRPO are the same runs" in text
    row = next(line for line in text.splitlines() if line.startswith("| GRPO + BT | +"))
    assert "better" in row and "+20 [" in row
    assert page.with_suffix(".png").stat().st_size > 10_000
    kept = tmp_path / "data" / "baselines.json"
    page.with_suffix(".png").unlink()
    assert command.main([str(kept), "--page", str(page)]) == 0
    assert page.read_text() == text and page.with_suffix(".png").exists()
    assert capsys.readouterr().out.split() == [str(page)] * 2


def test_a_page_without_marks_and_a_folder_without_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a page with the lines"):
        with_measured("# Page\n", "new")
    with pytest.raises(ConfigError, match="expected finished runs"):
        command.main([str(tmp_path)])


@pytest.mark.parametrize(
    "word, samples, learned, on_pairs",
    [
        ("gprl", 80 * 4 * 8, 80 * 4 * 8, False),
        ("dapo", 2 * 80 * 4 * 8, 80 * 4 * 8, False),
        ("dpo", 80 * 4 * 8, 80 * 4 * 2, True),
        ("sppo", 80 * 4 * 5, 80 * 4 * 2, True),
    ],
)
def test_samples_and_updates_of_a_word(word, samples, learned, on_pairs):
    config = plain(f"algorithm={word}", "experiment=study")
    assert budget_of(config) == Budget(samples, learned, 80, on_pairs)


def test_more_updates_of_the_same_samples_and_none_of_a_file():
    more = ["algorithm.inner_epochs=2", "algorithm.minibatches=4"]
    found = budget_of(plain("algorithm=gprl", "experiment=study", *more))
    assert found == Budget(2560, 5120, 640, False)
    found = budget_of(plain("algorithm=dpo", "experiment=study", "objective.pairs=file"))
    assert found == Budget(0, 640, 80, True)


def test_holm_is_the_closure_of_bonferroni():
    """p of i: the largest, over all subsets with i, of the subset's size times its least p."""
    chances = [0.01, 0.2, 0.012, 0.9, 0.04]
    for place, adjusted in enumerate(holm(chances)):
        rest = [i for i in range(5) if i != place]
        subsets = [(place, *s) for n in range(5) for s in itertools.combinations(rest, n)]
        expected = max(min(1, len(s) * min(chances[i] for i in s)) for s in subsets)
        assert adjusted == pytest.approx(expected)
    found = holm([0.02, math.nan, 0.03])
    assert found[0] == pytest.approx(0.04) and math.isnan(found[1])


def test_students_p_is_that_of_his_quantile():
    shape = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])  # mean 0, s = √2.5
    for tail in (0.05, 0.01, 0.2):
        mean = quantile(4, 1 - tail / 2) * math.sqrt(2.5 / 5)
        assert student_test(shape + mean) == pytest.approx(tail, abs=1e-9)
    assert student_test(np.zeros(4)) == 1 and student_test(np.ones(4)) == 0
    assert math.isnan(student_test(np.ones(2)))


def test_the_projects_page_is_what_its_record_says():
    page = (ROOT / "docs" / "baselines.md").read_text("utf8")
    record = json.loads((ROOT / "docs" / "data" / "baselines.json").read_text("utf8"))
    assert with_measured(page, measured_part(record, "baselines.png")) == page
    assert (ROOT / "docs" / "data" / "baselines.json").stat().st_size < 200_000
