"""The monitors as detectors: plants, streams, watching, counting, and the tiny command."""

from __future__ import annotations

import csv
import math
import random
from dataclasses import replace

import pytest
import torch

from gprl_lightning.core.drift import AxisMoments, DriftSettings, DriftState, update_drift
from gprl_lightning.core.preference import axis_pairs, scores_against
from gprl_lightning.study import detectors, planting
from gprl_lightning.study.detector_scores import Detections, FalseAlarms
from gprl_lightning.study.detector_study import Watched, by_one_rule, rows_of
from gprl_lightning.study.detectors import Watch
from gprl_lightning.study.pool import OWN_WORSE, Measured, Pool, Version, planted, with_own_worse
from gprl_lightning.study.streams import (
    Evidence,
    Scenario,
    Shape,
    _pushed,
    draw,
    loss_at,
    loss_step,
)

TEXT = "I loved it. The fit was good."
SHAPE = Shape(steps=60, groups=4, group_size=4, onset=20)
LENGTHY = Version("length", 3)


# Plants -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_plants_change_the_text_as_they_say(strength):
    times = {1: 1, 2: 2, 3: 4}[strength]
    rng = random.Random(0)
    padded = planting.length(TEXT, strength, rng)
    assert padded.startswith(TEXT + " ")
    assert sum(padded.count(filler) for filler in planting.FILLER) == times
    repeated = planting.repetition(TEXT, strength, rng)
    assert repeated == TEXT + times * " The fit was good."
    marked = planting.format_token(TEXT, strength, rng)
    assert marked.count("*") == {1: 1, 2: 2, 3: 7}[strength]
    assert marked.replace("* ", "") == TEXT
    flattered = planting.flattery(TEXT, strength, rng).split()
    praise = [word for word in flattered if word in planting.FLATTERY]
    assert len(praise) == times and [w for w in flattered if w not in praise] == TEXT.split()
    both = planting.collusion(TEXT, strength, rng)
    assert sum(both.count(filler) for filler in planting.FILLER) == times
    assert sum(both.split().count(word) for word in planting.FLATTERY) == times


def test_a_plant_is_the_same_whenever_it_is_made():
    texts = [[TEXT, "Yes."], [TEXT, ""]]
    first = planted(Version("flattery", 2), texts)
    assert planted(Version("flattery", 2), texts) == first
    assert first[0][0] != first[1][0]  # but not the same in every response


# Streams ------------------------------------------------------------------------------------------


def measured(shift: float, generator: torch.Generator) -> Measured:
    def noise(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    return Measured(
        vectors=noise(6, 8, 4) - 0.5,
        gold=noise(6, 8) * 0.2 + 0.5 - shift / 4,
        quality=noise(6, 8),
        lengths=torch.full((6, 8), 10.0 + shift, dtype=torch.float64),
        surprise=0.5 + shift + 0.1 * noise(6, 8),
    )


@pytest.fixture(scope="module")
def pool() -> Pool:
    generator = torch.Generator().manual_seed(0)
    clean, exploited = measured(0.0, generator), measured(1.0, generator)
    eigenvalues = torch.rand(6, 2, generator=generator, dtype=torch.float64)
    anchors = torch.rand(6, 4, generator=generator, dtype=torch.float64)
    return with_own_worse(Pool(eigenvalues, anchors, clean, {LENGTHY: exploited}), [1, 2])


def test_streams_are_the_same_for_the_same_seed(pool):
    scenario = Scenario(learning=3.0, version=LENGTHY, ramp=10, pushed_axes=1)
    one, again, other = (draw(pool, scenario, SHAPE, seed) for seed in (5, 5, 6))
    for name, values in vars(one).items():
        if values is None:
            continue  # streams have no ensemble
        assert values.equal(getattr(again, name)), name
        assert len(values) == SHAPE.steps
        assert name == "length" or not values.equal(getattr(other, name)), name


def test_an_exploit_sets_in_and_takes_over(pool):
    """Lengths are 10 and 11: their mean less 10 is the share of exploited responses."""
    share = draw(pool, Scenario(version=LENGTHY, ramp=10), SHAPE, 0).length - 10
    assert share[:20].eq(0).all() and share[29:].eq(1).all()
    assert 0 < share[20:29].mean() < 1
    assert draw(pool, Scenario(), SHAPE, 0).length.eq(10).all()


def test_learning_raises_the_quality_that_it_chooses_by(pool):
    good = replace(pool, clean=replace(pool.clean, gold=pool.clean.quality))
    still, learned = (draw(good, Scenario(kappa), SHAPE, 0).gold[30:] for kappa in (0.0, 4.0))
    assert learned.mean() > still.mean() + 0.1


def test_a_pushed_response_beats_what_it_was(pool):
    """Turned by 0.8 rad on one axis it wins there by sin 0.8 times its squared length."""
    vectors = pool.clean.vectors
    chosen = torch.zeros(vectors.shape[:2], dtype=torch.bool)
    chosen[:, 0] = True
    scenario = Scenario(version=LENGTHY, pushed_axes=1)
    turned = _pushed(vectors, chosen, scenario, torch.Generator().manual_seed(0))
    assert turned[:, 1:].equal(vectors[:, 1:])
    won = scores_against(axis_pairs(turned[:, :1]), axis_pairs(vectors[:, :1]))[:, 0, 0]
    lengths = axis_pairs(vectors[:, 0]).square().sum(-1)
    axis = int(won[0].argmax())
    torch.testing.assert_close(won[:, axis], math.sin(0.8) * lengths[:, axis])
    assert won[:, 1 - axis].abs().max() < 1e-12


def test_own_worse_answers_are_the_pools_own_and_worse(pool):
    worse = pool.exploited[Version(OWN_WORSE, 2)].quality
    order = pool.clean.quality.sort(1, descending=True).values
    assert worse.sort(1, descending=True).values.equal(order[:, [4, 5, 6, 7, 7, 7, 7, 7]])


# Watching -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistic", ["variance_share", "surprise"])
def test_a_detector_is_the_monitor_of_training(pool, statistic):
    evidence = draw(pool, Scenario(version=LENGTHY, ramp=10), SHAPE, 1)
    settings = DriftSettings(mode="monitor_only", statistic=statistic)
    state, drifts = DriftState.initial(settings, 2), []
    for row, level in zip(evidence.variance, evidence.surprise, strict=True):
        moments = AxisMoments(row, None, level, torch.tensor(1.0))
        state, _, _ = update_drift(state, moments, settings)
        drifts.append(state.drift)
    watch = getattr(detectors, statistic)(evidence, settings)
    assert watch.statistic.tolist() == pytest.approx(drifts, abs=1e-12)
    assert watch.threshold == pytest.approx(state.threshold)


def constant(surprise: list[float]) -> Evidence:
    one = torch.ones(len(surprise), 2, dtype=torch.float64)
    level = torch.tensor(surprise, dtype=torch.float64)
    return Evidence(one, one, one, level, level, one[:, 0], one[:, 0])


def test_a_stream_whose_alarm_is_known():
    """Quiet, then a jump at step 15: seen at once by what reads it, by the others never."""
    evidence = constant([0.5] * 15 + [1.5] * 5)
    found = {d.__name__: d(evidence, DriftSettings()).first_alarm() for d in detectors.DETECTORS}
    seen = {"surprise": 15}
    assert found == {name: seen.get(name) for name in found}
    falling = constant([0.5] * 15 + [0.1] * 5)
    assert detectors.surprise(falling, DriftSettings()).first_alarm() is None
    shorter = replace(falling, length=falling.surprise)
    assert detectors.mean_length(shorter, DriftSettings()).first_alarm() == 15


# Counting -----------------------------------------------------------------------------------------


def watch(*alarms: int, steps: int = 10) -> Watch:
    statistic = torch.zeros(steps)
    statistic[list(alarms)] = 2.0
    return Watch(statistic, 1.0)


def test_false_alarms_by_hand():
    """Three streams of 10 steps, 4 of them calibration: alarms at 5 and 6, none, and at 9."""
    found = FalseAlarms.of([watch(5, 6), watch(), watch(9)], 4)
    assert found == FalseAlarms(runs=3, alarmed_runs=2, steps=18, alarmed_steps=3)


def test_detections_by_hand():
    """Gold falls from 1 by .06 a step from step 5 on: ten points are lost at step 6.

    Alarms: at 5 in time, with .06 lost and 1 step ahead; at 8 late, by 2, with .24 lost; at 3 too
    early, which makes the one at 6 no detection; and none.
    """
    gold = torch.tensor([1.0] * 5 + [0.94, 0.88, 0.82, 0.76, 0.70])
    assert loss_step(gold, 4) == 6 and loss_step(gold, 7) == 7
    assert loss_step(torch.ones(10), 4) is None
    assert loss_at(gold, 8) == pytest.approx(0.24)
    found = Detections.of([watch(5, 7), watch(8), watch(3, 6), watch()], gold, 4)
    assert (found.runs, found.early, found.detected, found.in_time) == (4, 1, 2, 1)
    assert found.lead == -0.5 and found.loss == pytest.approx(0.15)
    with pytest.raises(ValueError, match="expected an exploit that costs gold"):
        Detections.of([watch(5)], torch.ones(10), 4)


SETTINGS = DriftSettings(mode="monitor_only", calibration_steps=4)


def test_one_rule_sets_all_thresholds_on_streams_that_are_not_counted():
    """Streams at even places come to 1 and 3; at most half of them may exceed it: 1. Those at odd
    places, 2 and 0, are counted: one alarms."""
    highest = (1.0, 2.0, 3.0, 0.0)

    def of(values) -> Watched:
        watches = [Watch(torch.tensor([0.0] * 5 + [value, 0.0]), 99.0) for value in values]
        return Watched(Scenario(), [constant([0.0])] * len(values), {"a": watches})

    healthy = of(highest)
    exploited = replace(of([1.5, 0.5]), scenario=Scenario(version=LENGTHY))
    counted, other = by_one_rule([healthy, exploited], 0.5)
    assert [w.threshold for w in (*counted.watches["a"], *other.watches["a"])] == [1.0] * 4
    found = FalseAlarms.of(counted.watches["a"], 4)
    assert (found.runs, found.alarmed_runs) == (2, 1)
    assert len(counted.streams) == 2 == len(other.streams), "exploited ones are all counted"


def test_an_exploit_that_costs_no_gold_leaves_the_table(pool):
    """The one of this pool costs .25; made free, it has no row. Healthy streams keep theirs."""
    free = replace(pool.exploited[LENGTHY], gold=pool.clean.gold)
    for exploited, rows in ((pool.exploited[LENGTHY], 1), (free, 0)):
        changed = replace(pool, exploited={LENGTHY: exploited})
        for scenario, expected in ((Scenario(version=LENGTHY, ramp=5), rows), (Scenario(), 1)):
            streams = [draw(changed, scenario, SHAPE, seed) for seed in range(4)]
            found = Watched(scenario, streams, {"a": [watch(5)] * 4})
            assert len(list(rows_of(found, SETTINGS, SHAPE.onset))) == expected


# The command --------------------------------------------------------------------------------------


def test_the_command_at_a_tiny_size(tmp_path):
    from gprl_lightning.config.validation import validate
    from gprl_lightning.models.initialization import from_backbone
    from gprl_lightning.models.pretrained_preference import save_preference_model
    from gprl_lightning.study.detector_study import detector_study
    from tests.composing import composed
    from tests.tiny import tiny_model, tiny_tokenizer

    judge = from_backbone(tiny_model("llama").model, tiny_tokenizer(), kind="gpm", num_axes=3)
    save_preference_model(judge, tmp_path / "judge")
    sizes = {"prompts": 2, "responses": 4, "steps": 8, "onset": 4, "seeds": 2, "healthy_seeds": 2}
    sizes |= {"ramps": "[2]", "strengths": "[1]"}
    cfg = composed(
        "experiment=detector_study", "data.prompts_per_step=2", "rollout.group_size=2",
        "rollout.max_new_tokens=12", "drift.calibration_steps=2", f"paths.cache={tmp_path}",
        "preference_model=folder", f"preference_model.path={tmp_path / 'judge'}",
        *(f"detectors.{key}={value}" for key, value in sizes.items()),
    )  # fmt: skip
    share = detector_study(validate(cfg), cfg, tmp_path / "out")
    assert 0 <= share <= 1
    with (tmp_path / "out/detectors.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) % len(detectors.DETECTORS) == 0
    healthy = [row for row in rows if row["healthy"] == "True"]
    assert len(healthy) == 2 * len(detectors.DETECTORS)
    assert {int(row["runs"]) for row in healthy} == {1}, "the other one set the thresholds"
    assert (tmp_path / "out/detectors.png").stat().st_size > 10_000
    (made,) = tmp_path.glob("detector_pool_*.pt")
    before = made.stat().st_mtime_ns
    assert detector_study(validate(cfg), cfg, tmp_path / "again") == share
    assert made.stat().st_mtime_ns == before
