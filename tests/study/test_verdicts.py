"""Intervals, tests and verdicts, against textbook formulas and every way to flip signs."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest

from gprl_lightning.study.alpha_spending import levels
from gprl_lightning.study.intervals import exact_share, quantile, student
from gprl_lightning.study.verdicts import MOST_EXACT, against_all, detectable, judge, sign_flip

FOUR = [0.02, 0.10, -0.05, 0.30]


def test_student_by_hand():
    """Four values: t(3) = 3.182, at 10 % 2.353; s by the textbook."""
    for level, t in ((0.05, 3.18245), (0.1, 2.35336)):
        half = t * statistics.stdev(FOUR) / 2
        found = student(np.array(FOUR), level)
        assert (found.low, found.high) == pytest.approx(
            (statistics.fmean(FOUR) - half, statistics.fmean(FOUR) + half), abs=1e-5
        )
    assert math.isnan(student(np.array([0.4, 0.5])).low)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 19, 40])
@pytest.mark.parametrize("probability", [0.6, 0.8, 0.975, 0.9975])
def test_student_s_quantile_is_where_its_density_sums_to_the_probability(degrees, probability):
    """By Simpson's rule on the density, from 0, where half of it lies behind."""
    found = quantile(degrees, probability)
    t = np.linspace(0, found, 200_001)
    log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    scale = math.exp(log_scale) / math.sqrt(degrees * math.pi)
    density = scale * (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
    weights = np.array([1, *[4, 2] * 99_999, 4, 1]) / 3
    assert 0.5 + (weights * density).sum() * t[1] == pytest.approx(probability, abs=1e-6)


def _binomial_tail(trials: int, share: float, successes: int) -> float:
    """P(at least so many successes), summed term by term."""
    return sum(
        math.comb(trials, k) * share**k * (1 - share) ** (trials - k)
        for k in range(successes, trials + 1)
    )


@pytest.mark.parametrize("successes,trials", [(2, 9), (5, 5), (0, 30), (17, 40)])
def test_an_exact_interval_ends_where_the_count_would_be_a_surprise(successes, trials):
    """At the lower end so many or more have a chance of 2.5 %, at the upper so many or fewer."""
    found = exact_share(successes, trials)
    if successes:
        assert _binomial_tail(trials, found.low, successes) == pytest.approx(0.025)
    else:
        assert found.low == 0
    if successes < trials:
        assert 1 - _binomial_tail(trials, found.high, successes + 1) == pytest.approx(0.025)
    else:
        assert found.high == 1
    with pytest.raises(ValueError, match="at least one trial"):
        exact_share(0, 0)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_sign_flips_are_all_of_them(size):
    values = [float(v) for v in np.random.default_rng(size).normal(0.3, 1, size)]
    ways = itertools.product((1, -1), repeat=size)
    sums = [abs(sum(s * v for s, v in zip(way, values, strict=True))) for way in ways]
    expected = sum(s >= abs(sum(values)) - 1e-9 for s in sums) / len(sums)
    assert sign_flip(np.array(values)) == pytest.approx(expected)


def test_drawn_sign_flips_are_like_all_of_them():
    """Beyond 20 differences: a 0 more changes no way's sum, so that p is that of the first 20."""
    values = np.random.default_rng(0).normal(0.25, 1, MOST_EXACT)
    exact, drawn = sign_flip(values), sign_flip(np.append(values, 0.0))
    assert 0.02 < exact < 0.9 and drawn == pytest.approx(exact, abs=0.01)


def test_detectable_is_what_four_studies_in_five_would_find():
    """At n = 20 and a spread of 26 points, 17; with that true difference 80 % find it."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 20)
    noise = 0.26 * (noise - noise.mean()) / noise.std(ddof=1)
    found = detectable(noise)
    assert found == pytest.approx(0.17, abs=0.005)
    seen = sum(student(rng.normal(found, 0.26, 20)).low > 0 for _ in range(2000))
    assert seen / 2000 == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    "differences,expected",
    [
        ([0.20, 0.22, 0.18, 0.21, 0.19, 0.2], "better"),
        ([-0.20, -0.22, -0.18, -0.21, -0.2, -0.19], "worse"),
        ([0.20, 0.22, 0.18, 0.21, 0.19], "undecided"),  # 1/16 of all flips are as far
        ([0.001, -0.002, 0.0, 0.003, -0.001], "equivalent"),
        ([0.02, 0.021, 0.019, 0.02, 0.022, 0.02], "equivalent"),  # surely above 0, and small
        ([0.06, 0.061, 0.059, 0.06, 0.062, 0.06], "better"),
        ([0.3, -0.3, 0.2, -0.1, 0.0, 0.1], "undecided"),
        ([0.0, 0.0], "undecided"),  # two seeds tell nothing
        ([math.nan] * 4 + [0.2, 0.21], "undecided"),  # nor do two that are known
        ([], "undecided"),
    ],
)
def test_verdicts(differences, expected):
    assert judge(np.array(differences, float)).verdict == expected


def test_a_stricter_level_asks_for_more():
    values = np.array([0.02, 0.09, 0.05, 0.14, 0.11, 0.01, 0.12, 0.06])
    assert judge(values).verdict == "better"
    strict = judge(values, level=0.005)
    assert strict.verdict == "undecided" and strict.interval.low < judge(values).interval.low


@pytest.mark.parametrize(
    "words,expected",
    [
        (["better", "better", "better"], "better"),
        (["better", "worse", "undecided"], "worse"),
        (["better", "undecided", "better"], "undecided"),
        (["better", "equivalent", "better"], "equivalent"),
        (["equivalent"], "equivalent"),
        ([], "undecided"),
    ],
)
def test_an_arm_has_to_beat_every_rival(words, expected):
    assert against_all(words) == expected


def test_levels_add_up_and_are_o_brien_and_fleming_s():
    """At half of the seeds 2 − 2Φ(1.96 · √2) = .0056 is spent."""
    assert levels([10]) == [pytest.approx(0.05)]
    assert levels([5, 10]) == pytest.approx([0.005575, 0.05 - 0.005575], abs=1e-5)
    assert sum(levels([4, 8, 12, 20], 0.1)) == pytest.approx(0.1)
    for wrong in ([], [10, 5], [5, 5], [0, 5]):
        with pytest.raises(ValueError, match="numbers of seeds that grow"):
            levels(wrong)
