"""The rules that the study had before, kept to show by simulation what was wrong with them."""

from __future__ import annotations

import numpy as np

from gprl_lightning.study.curves import smoothed
from gprl_lightning.study.intervals import student

Array = np.ndarray


def cautious(differences: Array, resamples: int = 1000) -> tuple[float, float]:
    """The wider of a percentile bootstrap and Student's interval on each side."""
    draws = np.random.default_rng(0).integers(0, len(differences), (resamples, len(differences)))
    low, high = np.quantile(differences[draws].mean(1), [0.025, 0.975])
    normal = student(differences)
    return min(low, normal.low), max(high, normal.high)


def verdict(differences: Array) -> str:
    """The sign before the margin of three points; one word for small, harmful and unknown."""
    low, high = cautious(differences)
    if low > 0:
        return "supported"
    return "not supported" if high < 0.03 else "undecided"


def combined(at_step: str, at_distance: str) -> str:
    """A gain had to be there at equal step and at equal √KL."""
    both = (at_step, at_distance)
    if both == ("supported", "supported"):
        return "supported"
    return "not supported" if "not supported" in both else "undecided"


def kept(values: Array) -> float:
    """The share of peak gold kept: final over peak of the smoothed curve."""
    smooth = smoothed(values)
    return float(smooth[-1] / smooth.max())


def at_distance(distance: Array, values: Array, wanted: Array) -> Array:
    """The first passage only."""
    found = np.full(len(wanted), np.nan)
    furthest = np.maximum.accumulate(distance)
    for place, goal in enumerate(wanted):
        reached = np.flatnonzero(furthest >= goal)
        if not len(reached):
            continue
        after = int(reached[0])
        if after == 0:
            found[place] = values[0]
            continue
        near, far = distance[after - 1], distance[after]
        share = (goal - near) / (far - near)
        found[place] = values[after - 1] + share * (values[after] - values[after - 1])
    return found


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's interval of a share, as if every stream were a trial of its own."""
    z = 1.959964
    share, square = successes / trials, z * z / trials
    centre = (share + square / 2) / (1 + square)
    half = z / (1 + square) * np.sqrt(share * (1 - share) / trials + square / trials / 4)
    return centre - half, centre + half
