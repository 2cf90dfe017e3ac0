"""A satisfied axis is not an exploited one: the mends of the share monitor, which are ours."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.core.drift import AxisMoments, DriftSettings, DriftState, update_drift
from tests.oracle_drift import floored

CALIBRATION = 4


def moments(stds: list[float], groups: int = 8) -> AxisMoments:
    variance = torch.tensor([groups * std**2 for std in stds], dtype=torch.float64)
    nothing = torch.zeros((), dtype=torch.float64)
    return AxisMoments(variance, None, nothing, torch.full_like(nothing, groups))


def run(settings: DriftSettings, path: list[list[float]]) -> list[DriftState]:
    state, states = DriftState.initial(settings, len(path[0])), []
    for stds in path:
        state, _, _ = update_drift(state, moments(stds), settings)
        states.append(state)
    return states


def settings(**options) -> DriftSettings:
    chosen = {"threshold": 0.05, "calibration_steps": CALIBRATION, "ema": 0.0, **options}
    return DriftSettings(**chosen)


# The first axis is satisfied: its std falls to a tenth. Nothing else moves.
SATURATING = [[1.0, 1.0, 1.0]] * CALIBRATION + [[0.1, 1.0, 1.0]] * 12
# The first axis runs away, as one that is exploited does.
RUNAWAY = [[1.0, 1.0, 1.0]] * CALIBRATION + [[4.0, 1.0, 1.0]] * 12


def test_the_balanced_rule_pushes_a_satisfied_axis_and_sinks_the_others():
    last = run(settings(), SATURATING)[-1]
    assert last.multipliers[0] > 1.5 and max(last.multipliers[1:]) < 0.8


def test_downward_multipliers_push_nobody():
    for path in (SATURATING, RUNAWAY):
        for state in run(settings(reweight="down"), path):
            assert all(0.25 <= m <= 1 for m in state.multipliers)
    down, balanced = (run(settings(reweight=r), RUNAWAY)[-1] for r in ("down", "balanced"))
    assert down.multipliers[0] == balanced.multipliers[0] == pytest.approx(0.25)
    assert down.multipliers[1:] == (1.0, 1.0) and balanced.multipliers[1] > 1


def test_they_come_back():
    there = run(settings(reweight="down"), RUNAWAY + [[1.0, 1.0, 1.0]] * 400)[-1]
    assert there.multipliers == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("floor", [0.5, 0.8, 1.0])
def test_a_share_counts_part_of_the_starting_spread(floor):
    state = run(settings(spread_floor=floor), SATURATING)[-1]
    variances = [max(0.1**2, floor**2), 1.0, 1.0]
    expected = floored([v / sum(variances) for v in variances], 1e-3)
    assert state.variance_share == pytest.approx(expected)


def test_with_the_floor_a_satisfied_axis_alarms_no_more_and_a_runaway_still_does():
    whole, half = settings(spread_floor=0.8), settings(spread_floor=0.5)
    assert not run(whole, SATURATING)[-1].active
    assert run(settings(), SATURATING)[-1].active
    assert run(half, SATURATING)[-1].drift < run(settings(), SATURATING)[-1].drift / 2
    assert run(half, RUNAWAY)[-1].active


def test_a_calibration_sees_the_variances_as_they_are():
    states = run(settings(spread_floor=1.0), [[2.0, 1.0, 1.0], [1.0, 1.0, 1.0]] * 2)
    assert states[0].variance_share[0] == pytest.approx(4 / 6)
    assert states[-1].reference_variance == pytest.approx((2.5, 1.0, 1.0))
