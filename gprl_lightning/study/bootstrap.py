"""Intervals over seeds, paired differences, and what they allow one to say. Ours.

Seeds are few. A percentile bootstrap of five numbers is too narrow (it covers some 83 % where it
says 95), Student's interval leans on the normal; a verdict takes the wider of the two on each side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gprl_lightning.tracking.grid_results import half_width

Array = NDArray[np.float64]
Verdict = Literal["supported", "not supported", "undecided"]
RESAMPLES = 10_000
FEWEST_PAIRS = 3  # fewer tell nothing
LEAST_EFFECT = 0.03  # three points: a smaller gain is none that the study speaks of


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


def student(values: Array) -> Interval:
    """Mean and Student's interval; of fewer than three values no bounds (NaN), of none no mean."""
    if len(values) < FEWEST_PAIRS:
        return Interval(float(np.mean(values)) if len(values) else math.nan, math.nan, math.nan)
    mean, half = float(np.mean(values)), half_width([float(v) for v in values])
    return Interval(mean, mean - half, mean + half)


def paired_bootstrap(differences: Array, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean and percentile bootstrap of one difference per seed, the seeds being drawn again."""
    draws = np.random.default_rng(seed).integers(0, len(differences), (resamples, len(differences)))
    low, high = np.quantile(differences[draws].mean(1), [0.025, 0.975])
    return Interval(float(np.mean(differences)), float(low), float(high))


def cautious(differences: Array) -> Interval:
    """The wider of bootstrap and Student on each side; of fewer than three, no bounds."""
    if len(differences) < FEWEST_PAIRS:
        return student(differences)
    drawn, normal = paired_bootstrap(differences), student(differences)
    return Interval(drawn.mean, min(drawn.low, normal.low), max(drawn.high, normal.high))


def verdict(differences: Array, least_effect: float = LEAST_EFFECT) -> Verdict:
    """Whether a gain is there: its interval lies above 0, or below the least effect, or neither.

    Args:
        differences: the arm's value less the other's, one per seed; the claim is that it is > 0.
        least_effect: a gain that is surely smaller is none.
    """
    if len(differences) < FEWEST_PAIRS:
        return "undecided"
    interval = cautious(differences)
    if interval.low > 0:
        return "supported"
    return "not supported" if interval.high < least_effect else "undecided"


def combined(at_equal_step: Verdict, at_equal_distance: Verdict) -> Verdict:
    """Both must support a claim; either can bring it down.

    An arm that is ahead at equal step only may just have moved less: at equal √KL it would not be.
    """
    both = (at_equal_step, at_equal_distance)
    if both == ("supported", "supported"):
        return "supported"
    return "not supported" if "not supported" in both else "undecided"
