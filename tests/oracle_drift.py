"""METHOD §3 once more: the drift monitor and its controller, in float64 and plain loops.

The second half of `tests.oracle`, under the same rules: from the specification, not the package.

As read here, where the method leaves it open: a step's share is floored and brought back to the
simplex before it is smoothed; the EMA starts at alpha(0) when calibration ends; multipliers are
clipped and then multiplied by the one factor that makes them sum to k without leaving their bounds;
the guard holds the multiplier of an axis whose anchored score has risen by more than the margin
while its share fell.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.oracle import Grid, Row, axis_stds, column, mean, pairwise_score


def variance_share(
    batch: Sequence[Grid], eigenvalues: Grid, share: str = "raw", floor: float = 1e-3
) -> list[float]:
    """alpha_l = E_x[gate_l^2 std_l^2] / sum over axes, floored, and on the simplex again."""
    axes = len(eigenvalues[0])
    moments = []
    for axis in range(axes):
        gates = [row[axis] if share == "weighted" else 1.0 for row in eigenvalues]
        spreads = [axis_stds(scores)[axis] for scores in batch]
        moments.append(mean([(g * s) ** 2 for g, s in zip(gates, spreads, strict=True)]))
    return floored([moment / sum(moments) for moment in moments], floor)


def floored(share: Row, floor: float) -> list[float]:
    raised = [max(value, floor) for value in share]
    return [value / sum(raised) for value in raised]


def anchored_statistic(groups: Sequence[Grid], anchors: Grid) -> list[float]:
    """delta_l = E_x[mean_i s_l(y_i, y_base)], one stored response y_base per prompt."""
    axes = len(anchors[0]) // 2
    return [
        mean(
            [
                mean([pairwise_score(response, anchor, axis) for response in group])
                for group, anchor in zip(groups, anchors, strict=True)
            ]
        )
        for axis in range(axes)
    ]


def surprise(logprobs: Sequence[Row]) -> float:
    """Mean of -log pi_ref over all tokens of a group's responses."""
    tokens = [value for response in logprobs for value in response]
    return -sum(tokens) / len(tokens)


def surprise_rise(levels: Row, rate: float, calibration: int) -> list[float]:
    """The smoothed surprise less the lowest it has been, from the calibration's mean on."""
    start = mean(levels[:calibration])
    smooth = [row[0] for row in ema([[x] for x in levels[calibration:]], rate, [start])]
    return [smooth[t] - min([start, *smooth[: t + 1]]) for t in range(len(smooth))]


def surprise_threshold(
    levels: Row, rate: float, q: float, horizon: int, runs: int, rng: random.Random
) -> float:
    """The q-quantile of the highest rise of runs with normal noise around a level that stays.

    The calibration's mean is off that level by the standard error; the variance is drawn from
    what the calibration says of it, (n - 1) s^2 / chi^2.
    """
    n, centre = len(levels), mean(levels)
    square = sum((x - centre) ** 2 for x in levels)
    highest = []
    for _ in range(runs):
        spread = math.sqrt(square / sum(rng.gauss(0, 1) ** 2 for _ in range(n - 1)))
        # One calibration step that is the mean of n, then the run.
        run = [spread / math.sqrt(n) * rng.gauss(0, 1)]
        run += [spread * rng.gauss(0, 1) for _ in range(horizon)]
        highest.append(max(surprise_rise(run, rate, 1)))
    return quantile(highest, q)


def divergence(share: Row, reference: Row) -> float:
    """KL(share || reference) in nats."""
    return sum(a * math.log(a / b) for a, b in zip(share, reference, strict=True) if a > 0)


def ema(values: Sequence[Row], rate: float, start: Row) -> list[list[float]]:
    """The smoothed value after each step, from `start`."""
    result, current = [], list(start)
    for value in values:
        current = [rate * c + (1 - rate) * v for c, v in zip(current, value, strict=True)]
        result.append(current)
    return result


def calibrate(shares: Sequence[Row]) -> list[float]:
    """alpha(0): the mean share of the calibration steps."""
    return [mean(column(shares, axis)) for axis in range(len(shares[0]))]


def quantile(values: Row, q: float) -> float:
    """Linear between order statistics."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def bootstrap_threshold(
    shares: Sequence[Row],
    rate: float,
    q: float,
    resamples: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> float:
    """The q-quantile of the drift in runs that are resampled from the calibration, so do not drift.

    A resample says which steps stand for the run's calibration, and which for what follows it.
    """
    drifts = []
    for calibration, stream in resamples:
        reference = calibrate([shares[pick] for pick in calibration])
        smooth = ema([shares[pick] for pick in stream], rate, reference)
        drifts.append(divergence(smooth[-1], reference))
    return quantile(drifts, q)


def reweight(
    m: Row, share: Row, reference: Row, rate: float, bound: float, hold: Sequence[bool]
) -> list[float]:
    """m_l <- clip(m_l (alpha_l(0) / alpha_l)^eta, 1/bound, bound), then sum m = k, in bounds.

    An axis in `hold` keeps its multiplier, and the others share what it leaves of k.
    """
    result = list(m)
    free = [axis for axis, held in enumerate(hold) if not held]
    moved = [clip(m[a] * (reference[a] / share[a]) ** rate, bound) for a in free]
    target = len(m) - sum(m[axis] for axis, held in enumerate(hold) if held)
    factor = common_factor(moved, target, bound)
    for axis, value in zip(free, moved, strict=True):
        result[axis] = clip(factor * value, bound)
    return result


def clip(value: float, bound: float) -> float:
    return min(max(value, 1 / bound), bound)


def common_factor(values: Row, target: float, bound: float) -> float:
    """The factor with sum clip(factor * value) = target: linear between the corners of the clip."""

    def total(factor: float) -> float:
        return sum(clip(factor * value, bound) for value in values)

    corners = sorted(edge / value for value in values for edge in (1 / bound, bound))
    right = next(i for i in range(1, len(corners)) if total(corners[i]) >= target)
    low, high = corners[right - 1], corners[right]
    return low + (high - low) * (target - total(low)) / (total(high) - total(low))


def lower(multipliers: Row, share: Row, reference: Row, rate: float, bound: float) -> list[float]:
    """An axis whose share rose loses weight; none gains any. Never under 1 / bound."""
    lowered = []
    for axis in range(len(multipliers)):
        value = multipliers[axis]
        if share[axis] > reference[axis]:
            value *= (reference[axis] / share[axis]) ** rate
        lowered.append(max(value, 1 / bound))
    return lowered


def raise_kl(
    beta: float, rest: float, drift: float, limit: float, gain: float, bound: float
) -> float:
    """beta <- beta (1 + K clip((D - limit) / limit, -0.2, 0.2)), within [rest, bound * rest]."""
    excess = min(max((drift - limit) / limit, -0.2), 0.2)
    return min(max(beta * (1 + gain * excess), rest), bound * rest)


@dataclass(frozen=True)
class Controller:
    """Settings by the names of `config.DriftConfig`; `threshold` is in nats."""

    threshold: float
    kl_coef: float = 0.02
    mode: str = "full"
    reweight: str = "balanced"
    guard: str = "none"
    calibration_steps: int = 10
    ema: float = 0.9
    reweight_rate: float = 0.5
    multiplier_bound: float = 4.0
    kl_gain: float = 0.5
    kl_bound: float = 10.0
    return_rate: float = 0.95
    guard_margin: float = 0.25


@dataclass(frozen=True)
class Step:
    """What one step leaves behind."""

    share: list[float]
    drift: float
    multipliers: list[float]
    kl_coef: float


def control(settings: Controller, shares: Grid, anchored: Grid) -> list[Step]:
    """The controller's path after calibration, from each step's share and anchored score."""
    n, axes = settings.calibration_steps, len(shares[0])
    reference, anchor = calibrate(shares[:n]), calibrate(anchored[:n])
    smooth = ema(shares[n:], settings.ema, reference)
    levels = ema(anchored[n:], settings.ema, anchor)
    multipliers, beta = [1.0] * axes, settings.kl_coef
    path = []
    for share, level in zip(smooth, levels, strict=True):
        drift = divergence(share, reference)
        hold = [
            settings.guard == "anchored"
            and level[axis] - anchor[axis] > settings.guard_margin
            and share[axis] < reference[axis]
            for axis in range(axes)
        ]
        if drift > settings.threshold:
            if settings.mode in ("full", "reweight_only"):
                rate, bound = settings.reweight_rate, settings.multiplier_bound
                if settings.reweight == "down":
                    multipliers = lower(multipliers, share, reference, rate, bound)
                else:
                    multipliers = reweight(multipliers, share, reference, rate, bound, hold)
            if settings.mode in ("full", "kl_only"):
                gain, bound = settings.kl_gain, settings.kl_bound
                beta = raise_kl(beta, settings.kl_coef, drift, settings.threshold, gain, bound)
        else:
            multipliers = [1 + settings.return_rate * (m - 1) for m in multipliers]
            beta = settings.kl_coef + settings.return_rate * (beta - settings.kl_coef)
        path.append(Step(share, drift, multipliers, beta))
    return path
