"""Intervals over seeds and over runs: Student's of a mean, Clopper and Pearson's of a share.

Written out rather than taken from scipy: torchmetrics loads scipy wherever it is installed, which
would cost every start of every run a tenth of its time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FEWEST_PAIRS = 3  # fewer tell nothing
LEVEL = 0.05  # two-sided: intervals are 95 % ones


@dataclass(frozen=True)
class Interval:
    """A mean with its interval."""

    mean: float
    low: float
    high: float


def student(values: Array, level: float = LEVEL) -> Interval:
    """Return the mean and Student's interval, which misses the truth in a share ``level`` of
    normal samples. Fewer than three values have no bounds (NaN), none has no mean."""
    if len(values) < FEWEST_PAIRS:
        return Interval(float(np.mean(values)) if len(values) else math.nan, math.nan, math.nan)
    mean = float(np.mean(values))
    half = quantile(len(values) - 1, 1 - level / 2) * standard_error(values)
    return Interval(mean, mean - half, mean + half)


def standard_error(values: Array) -> float:
    """Return the standard error of the mean of two values or more."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def student_test(values: Array) -> float:
    """Return the two-sided p of Student's test that the true mean is 0; NaN of fewer than three."""
    if len(values) < FEWEST_PAIRS:
        return math.nan
    error = standard_error(values)
    if error == 0:
        return float(np.mean(values) == 0)
    return 1 - _within(abs(float(np.mean(values))) / error, len(values) - 1)


@lru_cache
def quantile(degrees: int, probability: float) -> float:
    """Return Student's t at a probability of a half or more."""
    return _crossing(lambda t: 2 * probability - 1 - _within(t, degrees), 0.0, 1e4)


def _within(t: float, degrees: int) -> float:
    """Return P(|T| < t): a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    square = math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(2 + odd, degrees + 1, 2):
        total += term
        term *= square * (power - 1) / power
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def exact_share(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """Return a share with its exact binomial interval (Clopper and Pearson 1934), in [0, 1].

    The trials must be independent: runs are, streams from one pool or the steps of one run are not.

    Raises:
        ValueError: no trials.
    """
    if trials < 1:
        raise ValueError("exact_share: expected at least one trial, found none.")

    def at_most(count: int, share: float) -> float:
        terms = (math.comb(trials, k) * share**k * (1 - share) ** (trials - k)
                 for k in range(count + 1))  # fmt: skip
        return sum(terms)

    tail = level / 2
    low = _crossing(lambda p: at_most(successes - 1, p) - (1 - tail), 0.0, 1.0)
    high = _crossing(lambda p: at_most(successes, p) - tail, 0.0, 1.0)
    return Interval(
        mean=successes / trials,
        low=low if successes else 0.0,
        high=high if successes < trials else 1.0,
    )


def _crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function comes to 0, by bisection."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
