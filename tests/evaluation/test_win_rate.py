"""Win rates against hand arithmetic, and a length effect that the controlled rate must take out."""

from __future__ import annotations

import numpy as np
import pytest

from gprl_lightning.evaluation.win_rate import length_controlled_win_rate, win_rate


def test_mean_and_interval():
    """75 wins of 100: the normal interval is 0.75 ± 1.96 · sqrt(.75 · .25 / 100) = 0.75 ± 0.085."""
    rate = win_rate([1.0] * 75 + [0.0] * 25)
    assert rate.mean == 0.75
    assert rate.low == pytest.approx(0.665, abs=0.02)
    assert rate.high == pytest.approx(0.835, abs=0.02)


def test_ties_count_half_and_no_comparison_is_an_error():
    assert win_rate([1, 0.5, 0, 0.5]).mean == 0.5
    with pytest.raises(ValueError, match="at least one"):
        win_rate([])


def test_equal_lengths_leave_the_rate_as_it_is():
    outcomes = [1.0] * 70 + [0.0] * 30
    found = length_controlled_win_rate(outcomes, [10] * 100, [10] * 100)
    assert found == pytest.approx(70.5 / 101, abs=1e-6)  # half a win and half a loss are added


def test_a_win_by_length_alone_is_no_win():
    """Who is longer wins, and the new policy is longer in 80 %: raw 0.8, at equal length about a
    half."""
    rng = np.random.default_rng(0)
    difference = np.where(rng.random(400) < 0.8, 1, -1) * rng.integers(1, 20, 400)
    chance = 1 / (1 + np.exp(-3 * np.tanh(difference / difference.std())))
    outcomes = (rng.random(400) < chance).astype(float)
    base = np.full(400, 50)
    assert outcomes.mean() > 0.65
    found = length_controlled_win_rate(outcomes, base + difference, base)
    assert found == pytest.approx(0.5, abs=0.1)


def test_all_won_stays_finite():
    assert 0.9 < length_controlled_win_rate([1.0] * 50, list(range(50)), [20] * 50) < 1
