"""The drift controller: corrections and returns by hand, bounds, modes, and the guard."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from gprl_lightning.core.drift import DriftState, update_drift
from tests.core.drift_runs import QUICK, UNIFORM, moments, play

# The controller -----------------------------------------------------------------------------------


def test_one_correction_by_hand() -> None:
    """Shares (1/2, 1/2) → (0.8, 0.2): drift 0.8 ln 1.6 + 0.2 ln 0.4 = 0.1927, over four times 0.04.

    Factors √(5/8) and √(5/2) have the ratio 1 : 2, so with a sum of 2 they are 2/3 and 4/3. The
    excess counts as 0.2, so β grows by 1 + 0.5 · 0.2.
    """
    settings = replace(QUICK, threshold=0.04)
    states, log = play(settings, [moments((1.0, 1.0))] * 3 + [moments((4.0, 1.0))])
    (record,) = log
    assert record.step == 3 and record.action == "correct"
    assert record.drift == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4))
    assert record.threshold == 0.04
    assert record.variance_share == pytest.approx((0.8, 0.2))
    assert record.reference_share == pytest.approx((0.5, 0.5))
    assert record.multipliers_before == (1.0, 1.0)
    assert record.multipliers_after == states[-1].multipliers == pytest.approx((2 / 3, 4 / 3))
    assert record.kl_coef_before == 0.02
    assert record.kl_coef_after == states[-1].kl_coef == pytest.approx(0.022)


def test_a_small_excess_raises_the_kl_coefficient_in_proportion() -> None:
    """With the threshold at drift / 1.1 the excess is 0.1: β grows by 1 + 0.5 · 0.1."""
    drift = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    settings = replace(QUICK, threshold=drift / 1.1)
    states, _ = play(settings, [moments((1.0, 1.0))] * 3 + [moments((4.0, 1.0))])
    assert states[-1].kl_coef == pytest.approx(0.02 * 1.05)


def test_return_by_hand_and_rest_at_last() -> None:
    """From (2/3, 4/3) and 0.022: after n steps (1 ∓ 0.95ⁿ / 3) and 0.02 + 0.002 · 0.95ⁿ."""
    settings = replace(QUICK, threshold=0.04)
    calm, far = moments((1.0, 1.0)), moments((4.0, 1.0))
    states, log = play(settings, [calm] * 3 + [far] + [calm] * 300)
    for n in (1, 2, 10):
        left = 0.95**n
        assert states[3 + n].multipliers == pytest.approx((1 - left / 3, 1 + left / 3))
        assert states[3 + n].kl_coef == pytest.approx(0.02 + 0.002 * left)
    assert states[-1].multipliers == (1.0, 1.0) and states[-1].kl_coef == 0.02
    assert [record.action for record in log] == ["correct"] + ["return"] * (len(log) - 1)
    assert len(log) < 300  # no record once at rest
    assert log[-1].multipliers_after == (1.0, 1.0)


def test_multipliers_and_kl_coefficient_stay_in_their_bounds() -> None:
    """Axis 0 takes all for 60 steps: its multiplier falls to 1/4, where a plain rescale after
    the clip would push it under; the others share the rest."""
    states, _ = play(QUICK, [moments(UNIFORM)] * 3 + [moments((1e6, 1.0, 2.0))] * 60)
    for state in states:
        assert sum(state.multipliers) == pytest.approx(3.0)
        assert all(0.25 <= m <= 4.0 for m in state.multipliers)
        assert 0.02 <= state.kl_coef <= 0.2
    assert states[-1].multipliers == pytest.approx((0.25, 1.375, 1.375))
    assert states[-1].kl_coef == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("mode", "reweights", "raises_kl"),
    [
        ("full", True, True),
        ("reweight_only", True, False),
        ("kl_only", False, True),
        ("monitor_only", False, False),
    ],
)
def test_modes(mode: Any, reweights: bool, raises_kl: bool) -> None:
    settings = replace(QUICK, mode=mode)
    states, log = play(settings, [moments(UNIFORM)] * 3 + [moments((4.0, 1.0, 1.0))] * 2)
    assert states[-1].active
    assert (states[-1].multipliers != UNIFORM) == reweights
    assert (states[-1].kl_coef != 0.02) == raises_kl
    assert bool(log) == (reweights or raises_kl)


def test_a_kl_coefficient_of_zero_stays_zero() -> None:
    settings = replace(QUICK, kl_coef=0.0)
    calm = [moments(UNIFORM)]
    states, _ = play(settings, calm * 3 + [moments((4.0, 1.0, 1.0))] + calm * 400)
    assert states[3].multipliers[0] < 1
    assert {state.kl_coef for state in states} == {0.0}
    assert states[-1].multipliers == UNIFORM


# The guard ----------------------------------------------------------------------------------------


def saturating(guard: Any, rise: float = 1.0) -> list[DriftState]:
    """Axis 2 loses its variance while its anchored score rises."""
    calm = [moments(UNIFORM, (0.1, 0.1, 0.1))] * 3
    later = [moments((2.0, 1.0, 0.2), (0.1, 0.1, 0.1 + rise))] * 8
    return play(replace(QUICK, guard=guard), calm + later)[0]


def test_without_the_guard_a_saturated_axis_is_pushed_up() -> None:
    assert saturating("none")[-1].multipliers[2] > 1.5


def test_the_guard_holds_it_and_still_sums_to_the_number_of_axes() -> None:
    state = saturating("anchored")[-1]
    assert state.multipliers[2] == 1.0
    assert state.multipliers[0] < 1 < state.multipliers[1]
    assert sum(state.multipliers) == pytest.approx(3.0)
    assert state.anchored_score == pytest.approx((0.1, 0.1, 1.1))
    assert state.anchored_reference == pytest.approx((0.1, 0.1, 0.1))


def test_a_rise_within_the_margin_does_not_count() -> None:
    assert saturating("anchored", rise=0.2) == saturating("none", rise=0.2)


def test_the_guard_asks_for_what_it_needs() -> None:
    settings = replace(QUICK, guard="anchored")
    with pytest.raises(ValueError, match=r"drift\.anchor=true"):
        update_drift(DriftState.initial(settings, 3), moments(UNIFORM), settings)


def test_moments_must_be_those_of_the_run() -> None:
    state = DriftState.initial(QUICK, 2)
    with pytest.raises(ValueError, match=r"has 2 axes.*have 3.*num_axes"):
        update_drift(state, moments(UNIFORM), QUICK)
    state, _, _ = update_drift(state, moments((1.0, 1.0)), QUICK)
    with pytest.raises(ValueError, match=r"drift\.anchor=false"):
        update_drift(state, moments((1.0, 1.0), (0.0, 0.0)), QUICK)
