"""Curves by hand, and at equal √KL against a walk along the path in plain Python."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from gprl_lightning.study.curves import (
    at_distance,
    common_distance,
    mean_over_distance,
    smoothed,
    summarize_curve,
)


def array(*values: float) -> np.ndarray:
    return np.array(values, float)


def test_smoothed_by_hand():
    """Ends: (1 + 4) / 2 and (1 + 3) / 2; inside: (1 + 4 + 1) / 3 and (4 + 1 + 3) / 3."""
    assert smoothed(array(1, 4, 1, 3)) == pytest.approx([2.5, 2, 8 / 3, 2])


def test_summary_by_hand():
    """Area (10·.55 + 10·.65 + 10·.6 + 20·.3) / 50: unequal steps.

    Smoothed halves .5, .6, .7, .6, .5 and .6, .6, .6, .4, .3. The first is highest at 20, where the
    second has .6; the second at 0, where the first has .5. The first falls furthest from 20 to 50
    (.3 in the second), the second from 0 to 50 (0 in the first).
    """
    times = array(0, 10, 20, 30, 50)
    one, other = array(0.45, 0.55, 0.8, 0.75, 0.25), array(0.6, 0.6, 0.6, 0.6, 0.0)
    assert smoothed(one) == pytest.approx([0.5, 0.6, 0.7, 0.6, 0.5])
    assert smoothed(other) == pytest.approx([0.6, 0.6, 0.6, 0.4, 0.3])
    gold, proxy = array(0.5, 0.6, 0.7, 0.5, 0.1), array(0.5, 0.7, 0.8, 0.9, 0.9)
    found = summarize_curve(times, gold, (one, other), proxy)
    assert (found.start, found.proxy_choice) == (0.5, 0.5)
    assert (found.final, found.gain) == (pytest.approx(0.3), pytest.approx(-0.2))
    assert found.collapsed == 1
    assert found.peak == pytest.approx((0.6 + 0.5) / 2)
    assert found.drop == pytest.approx((0.3 + 0.0) / 2)
    assert found.area == pytest.approx((5.5 + 6.5 + 6 + 6) / 50)


def test_a_curve_without_halves_or_proxy_has_no_peak_made_up():
    found = summarize_curve(array(0, 1, 2), array(0.5, 0.6, 0.7))
    assert all(math.isnan(v) for v in (found.peak, found.drop, found.proxy_choice))
    assert found.collapsed == 0 and found.gain == pytest.approx(0.15)


def test_a_curve_that_only_climbs_has_no_drop():
    climb = array(0.4, 0.5, 0.6, 0.7)
    assert summarize_curve(array(0, 1, 2, 3), climb, (climb, climb)).drop == 0


def _walk(distance, values, goal):
    """Along the path in small steps: the mean of the values wherever it passes the goal."""
    found = []
    for (d, v), (e, w) in zip(
        zip(distance, values, strict=True),
        zip(distance[1:], values[1:], strict=True),
        strict=False,
    ):
        for step in range(20_000):
            near, far = (d + s / 20_000 * (e - d) for s in (step, step + 1))
            if near <= goal < far or far < goal <= near:
                found.append(v + step / 20_000 * (w - v))
    return sum(found) / len(found) if found else math.nan


def test_at_distance_is_the_mean_over_all_passages_of_a_walk():
    rng = random.Random(0)
    for _ in range(8):
        distance = [0.0]
        for _ in range(7):  # mostly away, now and then back
            distance.append(abs(distance[-1] + rng.uniform(-0.6, 1.0)))
        values = [rng.random() for _ in distance]
        wanted = [rng.uniform(0.01, 1.2 * max(distance)) for _ in range(6)]
        found = at_distance(array(*distance), array(*values), array(*wanted))
        expected = [_walk(distance, values, goal) for goal in wanted]
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_at_distance_by_hand():
    """Out to 2, back to 1, out to 4: 3 is passed once, at two thirds of the way from 1 to 4; 1.5
    three times, with .65, .65 and .5; 1 and 2 twice, the turning points counting once."""
    distance, values = array(0, 2, 1, 4), array(0.5, 0.7, 0.6, 0.0)
    found = at_distance(distance, values, array(0, 1, 1.5, 2, 3, 4, 5))
    expected = [0.5, (0.6 + 0.6) / 2, (0.65 + 0.65 + 0.5) / 3, (0.7 + 0.4) / 2, 0.2, 0.0]
    assert found[:6] == pytest.approx(expected)
    assert math.isnan(found[6])
    assert at_distance(array(1, 2), array(0.4, 0.6), array(0.5)) == [0.4], "before its beginning"
    assert at_distance(array(1, 1, 2), array(0.2, 0.4, 0.6), array(1.0)) == pytest.approx([0.3])


def test_common_distance_and_mean():
    """Straight from .5 to .7 over 0 to 2: .5 to .6 over 0 to 1, .55 to .6 over its far half."""
    assert common_distance(array(0, 3, 2), array(0, 2)) == 2
    distance, values = array(0, 2), array(0.5, 0.7)
    assert mean_over_distance(distance, values, 0.0, 1.0) == pytest.approx(0.55)
    assert mean_over_distance(distance, values, 0.5, 1.0) == pytest.approx(0.575)
    assert mean_over_distance(distance, values, 0.0, 0.0) == 0.5


def test_curves_that_are_one_function_of_distance_have_equal_means():
    """However far apart their evaluations stand: that is what an equal √KL is for."""
    coarse, fine = np.linspace(0, 8, 9), np.linspace(0, 4, 9)
    gold = [0.5 + 0.1 * d - 0.02 * d**2 for d in (coarse, fine)]
    found = [mean_over_distance(d, g, 2, 4) for d, g in zip((coarse, fine), gold, strict=True)]
    assert found[0] == pytest.approx(found[1], abs=0.005)
