"""What a learning curve comes to: peak, final, area, the share kept, and its values at equal √KL.

Pure functions of arrays. An evaluation point is a mean over some 200 comparisons and so ± 3.5
points; the maximum of such points is above the true peak by chance alone. Peak and final are
therefore taken from the curve's centred mean of three points. Ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
STEPS = 200  # of an average over √KL


@dataclass(frozen=True)
class CurveSummary:
    """A gold curve in numbers.

    Attributes:
        peak: the highest value of the smoothed curve.
        peak_iteration: where.
        final: the smoothed curve's last value: the mean of the last two evaluations.
        kept: final / peak, the share of peak gold that is kept at the horizon.
        area: the mean over iterations, by trapezoids, of the curve as measured.
    """

    peak: float
    peak_iteration: float
    final: float
    kept: float
    area: float


def smoothed(values: Array) -> Array:
    """The mean of each point and its neighbours; of two points at either end."""
    padded = np.concatenate([[np.nan], values, [np.nan]])
    return np.nanmean(np.stack([padded[:-2], padded[1:-1], padded[2:]]), 0)


def summarize_curve(iterations: Array, values: Array) -> CurveSummary:
    """Peak, final, share kept and area of a curve of two points or more."""
    smooth = smoothed(values)
    top = int(smooth.argmax())
    peak, final = float(smooth[top]), float(smooth[-1])
    span = float(iterations[-1] - iterations[0])
    return CurveSummary(
        peak=peak,
        peak_iteration=float(iterations[top]),
        final=final,
        kept=final / peak if peak > 0 else 0.0,
        area=_trapezoid(values, iterations) / span,
    )


def at_distance(distance: Array, values: Array, wanted: Array) -> Array:
    """The curve's value where it first comes to each wanted distance; NaN where it never does.

    Linear between evaluations. A policy can come back towards where it started; what counts is the
    first time that it has gone so far.

    Args:
        distance: of each evaluation, in the order of iterations.
        values: likewise.
        wanted: any distances.
    """
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


def common_distance(first: Array, second: Array) -> float:
    """The furthest distance that both curves come to."""
    return float(min(first.max(), second.max()))


def mean_over_distance(distance: Array, values: Array, start: float, until: float) -> float:
    """The curve's mean over the distances from ``start`` to ``until``, which it must come to.

    Of two curves over the same distances, the means compare like with like however far apart their
    evaluations stand, and they are less noisy than any one point.
    """
    wanted = np.linspace(start, until, STEPS)
    return float(at_distance(distance, values, wanted).mean())


def _trapezoid(values: Array, places: Array) -> float:
    return float((np.diff(places) * (values[1:] + values[:-1]) / 2).sum())
