"""Intervals of means, and the judge's position bias."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gprl_lightning.benchmarks.protocol import PositionBias

Z95 = 1.959964


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def normal_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean, by the normal approximation."""
    mean, reach = float(np.mean(values)), Z95 * standard_error(values)
    return mean - reach, mean + reach


def bootstrap_interval(
    groups: Sequence[Sequence[float]], rounds: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of all values, drawn by groups.

    A group is what depends on one another: the verdicts on one question.
    """
    sums = np.array([sum(g) for g in groups], dtype=float)
    counts = np.array([len(g) for g in groups], dtype=float)
    draws = np.random.default_rng(seed).integers(0, len(groups), (rounds, len(groups)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def position_bias(first_wins: Sequence[float]) -> PositionBias | None:
    """Return how often the answer in the first place won; None for no comparison.

    Args:
        first_wins: 1 where the answer that stood first won, 0 where the other did, and any share
            between. For two orders of one pair their mean is one value.
    """
    if not first_wins:
        return None
    low, high = normal_interval(first_wins)
    return PositionBias(float(np.mean(first_wins)), low, high, len(first_wins))
