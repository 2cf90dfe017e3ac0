"""Intervals and verdicts, against every resample there is and Student's table."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest

from gprl_lightning.study.bootstrap import (
    cautious,
    combined,
    paired_bootstrap,
    student,
    verdict,
)

FOUR = [0.02, 0.10, -0.05, 0.30]


def _all_resamples(values: list[float]) -> tuple[float, float]:
    """The 2.5 % and 97.5 % points over all n^n resamples: what random ones estimate."""
    means = sorted(
        statistics.fmean(drawn) for drawn in itertools.product(values, repeat=len(values))
    )
    return means[round(0.025 * (len(means) - 1))], means[round(0.975 * (len(means) - 1))]


def test_bootstrap_is_that_of_all_resamples():
    found, (low, high) = paired_bootstrap(np.array(FOUR)), _all_resamples(FOUR)
    assert found.mean == pytest.approx(statistics.fmean(FOUR))
    assert (found.low, found.high) == (
        pytest.approx(low, abs=0.006),
        pytest.approx(high, abs=0.006),
    )
    assert low < found.mean - 0.05


def test_student_by_hand():
    """Four values: t(3) = 3.182; s by the textbook."""
    half = 3.182 * statistics.stdev(FOUR) / 2
    found = student(np.array(FOUR))
    assert (found.low, found.high) == pytest.approx(
        (statistics.fmean(FOUR) - half, statistics.fmean(FOUR) + half)
    )
    assert math.isnan(student(np.array([0.4])).low)


def test_cautious_is_the_wider_on_each_side():
    found, drawn, normal = (f(np.array(FOUR)) for f in (cautious, paired_bootstrap, student))
    assert found.low == min(drawn.low, normal.low) and found.high == max(drawn.high, normal.high)
    alone = cautious(np.array([0.4]))
    assert alone.mean == 0.4 and math.isnan(alone.low) and math.isnan(alone.high)


@pytest.mark.parametrize(
    "differences,expected",
    [
        ([0.20, 0.22, 0.18, 0.21, 0.19], "supported"),
        ([0.001, -0.002, 0.0, 0.003, -0.001], "not supported"),  # surely under three points
        ([-0.20, -0.22, -0.18], "not supported"),
        ([0.3, -0.3, 0.2, -0.1, 0.0], "undecided"),
        ([0.5, 0.5], "undecided"),  # two seeds tell nothing
        ([0.04, 0.05, 0.06], "supported"),
        ([0.01, 0.15, 0.02], "undecided"),  # all above 0, but Student's interval is not
    ],
)
def test_verdicts(differences, expected):
    assert verdict(np.array(differences)) == expected


def test_no_false_support_without_a_difference():
    """Of 400 studies of five seeds without a difference, 2.5 % may claim a gain by chance."""
    rng = np.random.default_rng(1)
    said = [verdict(rng.normal(0, 0.1, 5)) for _ in range(400)]
    assert said.count("supported") <= 0.045 * 400
    assert said.count("undecided") > 200


@pytest.mark.parametrize(
    "step,distance,both",
    [
        ("supported", "supported", "supported"),
        ("supported", "undecided", "undecided"),
        ("supported", "not supported", "not supported"),
        ("not supported", "undecided", "not supported"),
        ("undecided", "undecided", "undecided"),
    ],
)
def test_both_must_support(step, distance, both):
    assert combined(step, distance) == both
