"""The second statistic of the drift monitor, the surprise under the reference: ours."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from gprl_lightning.core.drift import DriftSettings
from gprl_lightning.core.surprise import group_surprise, surprise_threshold
from tests import oracle_drift as oracle
from tests.core.drift_runs import UNIFORM, double, moments, play

QUICK = DriftSettings(statistic="surprise", threshold=0.1, calibration_steps=3, ema=0.5)


def surprised(levels: list[float]) -> list:
    return [moments(UNIFORM, surprise=level) for level in levels]


def test_surprise_by_hand() -> None:
    """(1 + 3 + 2) / 3 tokens, and 4 / 1: what is outside the mask, -inf included, is not read."""
    inside = [[-1.0, -3.0], [-2.0, 9.0], [-4.0, float("-inf")], [0.0, 0.0]]
    mask = torch.tensor([[True, True], [True, False], [True, False], [False, False]])
    assert group_surprise(torch.tensor(inside), mask, 2).tolist() == [2.0, 4.0]
    expected = [oracle.surprise([[-1.0, -3.0], [-2.0]]), oracle.surprise([[-4.0], []])]
    assert expected == [2.0, 4.0]


def test_a_fall_is_no_drift_and_a_rise_counts_from_the_lowest_level() -> None:
    """Calibrated at 1; half of each step counts: 1 → 0.6 → 0.4 → 0.5 → 0.85, 0.45 above 0.4."""
    states, _ = play(QUICK, surprised([0.5, 1.0, 1.5, 0.2, 0.2, 0.6, 1.2]))
    assert [s.surprise for s in states[2:]] == pytest.approx([1.0, 0.6, 0.4, 0.5, 0.85])
    assert [s.drift for s in states[2:]] == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.45])
    assert [s.lowest_surprise for s in states[2:]] == pytest.approx([1.0, 0.6, 0.4, 0.4, 0.4])
    assert states[-1].active and not states[4].active


def test_it_comes_back_with_the_surprise() -> None:
    states, log = play(replace(QUICK, mode="kl_only"), surprised([1.0] * 3 + [2.0] * 3 + [1.0] * 8))
    assert states[5].active and not states[-1].active
    assert max(s.kl_coef for s in states) > 0.02
    assert {record.action for record in log} == {"correct", "return"}
    assert all(s.multipliers == UNIFORM for s in states)
    assert log[0].surprise == states[log[0].step].surprise == 1.5
    assert log[0].lowest_surprise == 1.0


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9])
def test_rise_against_the_oracle(rate: float) -> None:
    rng = random.Random(0)
    levels = [0.6 + 0.2 * rng.gauss(0, 1) - 0.01 * t + 0.03 * max(t - 20, 0) for t in range(50)]
    settings = replace(QUICK, ema=rate, calibration_steps=10)
    states, _ = play(settings, surprised(levels))
    expected = oracle.surprise_rise(levels, rate, 10)
    assert [s.drift for s in states[10:]] == pytest.approx(expected)
    assert [s.active for s in states[10:]] == [rise > 0.1 for rise in expected]


def test_the_variance_share_does_not_see_it_and_the_other_way_round() -> None:
    steps = surprised([1.0] * 10 + [2.0] * 20)
    assert play(QUICK, steps)[0][-1].active
    assert not play(replace(QUICK, statistic="variance_share"), steps)[0][-1].active
    tilted = [moments(UNIFORM)] * 10 + [moments((9.0, 1.0, 1.0))] * 20
    assert not play(QUICK, tilted)[0][-1].active
    assert play(replace(QUICK, statistic="variance_share"), tilted)[0][-1].active


def test_one_axis_is_enough() -> None:
    steps = [moments((1.0,), surprise=level) for level in [1.0] * 5 + [2.0] * 5]
    assert play(QUICK, steps)[0][-1].active


# The automatic threshold --------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "q", "horizon"), [(0.9, 0.9, 60), (0.5, 0.8, 30), (0.0, 0.8, 20)])
def test_threshold_against_the_oracle(rate: float, q: float, horizon: int) -> None:
    """Other random numbers than the package's, so equal within what 2,000 runs allow."""
    rng = random.Random(0)
    levels = [rng.gauss(0.6, 0.1) for _ in range(10)]
    expected = oracle.surprise_threshold(levels, rate, q, horizon, 2000, rng)
    found = surprise_threshold(double(levels), rate, q, horizon)
    assert found == pytest.approx(expected, rel=0.1)
    assert surprise_threshold(double(levels), rate, q, horizon) == found


def test_threshold_scales_with_the_noise_not_with_the_level() -> None:
    levels = double([0.5, 0.7, 0.6, 0.9, 0.4])
    found = surprise_threshold(levels, 0.9, 0.99, 100)
    assert surprise_threshold(levels + 3, 0.9, 0.99, 100) == pytest.approx(found)
    assert surprise_threshold(2 * levels, 0.9, 0.99, 100) == pytest.approx(2 * found)
    assert surprise_threshold(levels, 0.9, 0.99, 1000) > found
    assert 0 < surprise_threshold(double([0.5] * 5), 0.9, 0.99, 100) < 1e-5


def test_false_alarms_are_held_per_run() -> None:
    """300 runs of 150 steps with noise alone: about one in ten alarms at the 90th percentile.

    The monitor is played in a tenth of them, and alarms where the oracle's rise says so.
    """
    settings: Any = replace(
        QUICK, threshold="auto", threshold_quantile=0.9, ema=0.9, calibration_steps=10,
        alarm_horizon=140,
    )  # fmt: skip
    rng, alarms = random.Random(0), []
    for run in range(300):
        levels = [rng.gauss(0.6, 0.1) for _ in range(150)]
        threshold = surprise_threshold(double(levels[:10]), 0.9, 0.9, 140)
        alarms.append(max(oracle.surprise_rise(levels, 0.9, 10)) > threshold)
        if run % 10 == 0 or (alarms[-1] and sum(alarms) <= 5):
            states, _ = play(settings, surprised(levels))
            assert any(s.active for s in states) == alarms[-1]
    assert 0.06 <= sum(alarms) / 300 <= 0.14


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    surprise_threshold(double([0.5, 0.7, 0.6]), 0.9, 0.99, 50)
    assert torch.equal(torch.rand(1), expected)
