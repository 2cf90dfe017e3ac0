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
    """Smoothed .55, .6, .6, .43, .3; area (10·.55 + 10·.65 + 10·.6 + 20·.3) / 50: unequal steps."""
    found = summarize_curve(array(0, 10, 20, 30, 50), array(0.5, 0.6, 0.7, 0.5, 0.1))
    assert (found.peak, found.peak_iteration) == (pytest.approx(0.6), 10)
    assert found.final == pytest.approx(0.3)
    assert found.kept == pytest.approx(0.5)
    assert found.area == pytest.approx((5.5 + 6.5 + 6 + 6) / 50)


def test_a_curve_that_climbs_keeps_all():
    found = summarize_curve(array(0, 1, 2), array(0.5, 0.6, 0.7))
    assert found.kept == 1 and found.peak == pytest.approx(0.65)


def _walk(distance, values, goal):
    """Along the path in small steps, until it is as far as the goal."""
    for (d, v), (e, w) in zip(
        zip(distance, values, strict=True),
        zip(distance[1:], values[1:], strict=True),
        strict=False,
    ):
        for step in range(20_001):
            share = step / 20_000
            if d + share * (e - d) >= goal:
                return v + share * (w - v)
    return math.nan


def test_at_distance_is_a_walk_to_the_first_crossing():
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
    """Out to 2, back to 1, out to 4: 3 is first come to on the way from 1 to 4, at two thirds."""
    distance, values = array(0, 2, 1, 4), array(0.5, 0.7, 0.6, 0.0)
    found = at_distance(distance, values, array(0, 1, 2, 3, 5))
    assert found[:4] == pytest.approx([0.5, 0.6, 0.7, 0.6 - 2 / 3 * 0.6])
    assert math.isnan(found[4])


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
