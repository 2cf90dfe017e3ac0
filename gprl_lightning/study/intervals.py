"""Intervals over seeds and over runs: Student's of a mean, Clopper and Pearson's of a share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

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


def quantile(degrees: int, probability: float) -> float:
    """Return Student's t at a probability."""
    return float(stdtrit(degrees, probability))


def exact_share(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """Return a share with its exact binomial interval (Clopper and Pearson 1934), in [0, 1].

    The trials must be independent: runs are, streams from one pool or the steps of one run are not.

    Raises:
        ValueError: no trials.
    """
    if trials < 1:
        raise ValueError("exact_share: expected at least one trial, found none.")
    failures = trials - successes
    low = float(betaincinv(successes, failures + 1, level / 2)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - level / 2)) if failures else 1.0
    return Interval(successes / trials, low, high)
