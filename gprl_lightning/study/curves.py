"""What a learning curve comes to, and its values at equal √KL.

Pure functions of arrays. An evaluation point is a mean over some 200 comparisons and so ± 3.5
points; the best of such points is above the true peak by chance alone, and more so the noisier they
are. What is chosen for being high or low is therefore chosen on one half of the comparisons and
read on the other, both ways round. Ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
STEPS = 200  # of an average over √KL
COLLAPSE = 0.4  # gold win rate; a policy that ends below it is worse than it began


@dataclass(frozen=True)
class CurveSummary:
    """A gold curve in numbers, all of win rate.

    Attributes:
        start: the first evaluation, before any step.
        final: the mean of the last two evaluations: gold at the horizon.
        gain: final less start.
        collapsed: 1 if final is under .4, else 0.
        peak: of the smoothed curve, found on one half of the comparisons and read on the other; NaN
            without halves.
        drop: the worst fall of the smoothed curve from its running best, found and read likewise.
        proxy_choice: gold at the evaluation that the proxy likes best (the first of equals): what
            one would ship without a gold; NaN without a proxy.
        area: the mean over iterations, by trapezoids.
    """

    start: float
    final: float
    gain: float
    collapsed: float
    peak: float
    drop: float
    proxy_choice: float
    area: float


def summarize_curve(
    iterations: Array,
    values: Array,
    halves: tuple[Array, Array] | None = None,
    proxy: Array | None = None,
) -> CurveSummary:
    """Summarize a curve of two points or more.

    Args:
        iterations: of the evaluations.
        values: gold win rate at each.
        halves: the same from either half of the comparisons.
        proxy: the proxy's win rate at each.
    """
    final = ending(values)
    span = float(iterations[-1] - iterations[0])
    return CurveSummary(
        start=float(values[0]),
        final=final,
        gain=final - float(values[0]),
        collapsed=float(final < COLLAPSE),
        peak=_cross_fitted(halves, _peak),
        drop=_cross_fitted(halves, _drop),
        proxy_choice=math.nan if proxy is None else float(values[int(proxy.argmax())]),
        area=_trapezoid(values, iterations) / span,
    )


def ending(values: Array) -> float:
    """Return where a curve ends: the mean of its last two points, or its only one."""
    return float(values[-2:].mean())


def smoothed(values: Array) -> Array:
    """Return the mean of each point and its neighbours; of two points at either end."""
    padded = np.concatenate([[np.nan], values, [np.nan]])
    return np.nanmean(np.stack([padded[:-2], padded[1:-1], padded[2:]]), 0)


def _cross_fitted(
    halves: tuple[Array, Array] | None, read: Callable[[Array, Array], float]
) -> float:
    """Choose on one half, read on the other, and average both ways round."""
    if halves is None:
        return math.nan
    one, other = smoothed(halves[0]), smoothed(halves[1])
    return (read(one, other) + read(other, one)) / 2


def _peak(chosen_on: Array, read_on: Array) -> float:
    return float(read_on[int(chosen_on.argmax())])


def _drop(chosen_on: Array, read_on: Array) -> float:
    """From the best so far to the point that lies furthest below it; 0 if the curve only climbs."""
    low = int((np.maximum.accumulate(chosen_on) - chosen_on).argmax())
    high = int(chosen_on[: low + 1].argmax())
    return float(read_on[high] - read_on[low])


def at_distance(distance: Array, values: Array, wanted: Array) -> Array:
    """Return the curve's value at each wanted distance; NaN where it never comes to it.

    Linear between evaluations. A policy that turns back passes a distance several times: the value
    is the mean over its passages, so that what it brings back counts as much as what it had on its
    way out. Before its first distance the curve has its first value.

    Args:
        distance: of each evaluation, in the order of iterations.
        values: likewise.
        wanted: any distances.
    """
    goal, near, far = wanted[:, None], distance[:-1], distance[1:]
    # Each stretch with its beginning and without its end, so that no point counts twice.
    passed = (near <= goal) & (goal < far) | (far < goal) & (goal <= near)
    passed |= (near == goal) & (far == goal)
    share = (goal - near) / np.where(far == near, 1.0, far - near)
    there = np.where(passed, values[:-1] + share * np.diff(values), 0.0)
    at_end = distance[-1] == wanted
    count = passed.sum(1) + at_end
    mean = (there.sum(1) + at_end * values[-1]) / np.maximum(count, 1)
    never = np.where(wanted < distance.min(), values[0], np.nan)
    return np.where(count > 0, mean, never)


def common_distance(first: Array, second: Array) -> float:
    """Return the furthest distance that both curves come to."""
    return float(min(first.max(), second.max()))


def mean_over_distance(distance: Array, values: Array, start: float, until: float) -> float:
    """Return the curve's mean over the distances from ``start`` to ``until``, which it must come
    to.

    Of two curves over the same distances, the means compare like with like however far apart their
    evaluations stand, and they are less noisy than any one point.
    """
    wanted = np.linspace(start, until, STEPS)
    return float(at_distance(distance, values, wanted).mean())


def _trapezoid(values: Array, places: Array) -> float:
    return float((np.diff(places) * (values[1:] + values[:-1]) / 2).sum())
