"""The monitors under test: each reads a stream's evidence and says at which steps it alarms.

A whole stream at once, from the parts that `update_drift` is made of; a test holds them against it
step by step. The anchored score and the length are distances of a smoothed number from its
calibration. None acts on the stream. A watch brings the threshold that its monitor would set for
itself; to compare monitors, all thresholds are set by one rule on other runs (`detector_roc`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gprl_lightning.core.drift import DriftSettings, bootstrap_threshold, divergence
from gprl_lightning.core.surprise import surprise_threshold
from gprl_lightning.core.variance_share import floored_share
from gprl_lightning.study.streams import Evidence


@dataclass(frozen=True)
class Watch:
    """What a detector made of a stream.

    Attributes:
        statistic: by step; 0 while calibrating.
        threshold: the monitor's own; inf of a rival that has none.
    """

    statistic: Float[Tensor, " steps"]
    threshold: float

    @property
    def active(self) -> Bool[Tensor, " steps"]:
        return self.statistic > self.threshold

    def first_alarm(self) -> int | None:
        """Return the first step above the threshold."""
        steps = self.active.nonzero()[:, 0]
        return int(steps[0]) if len(steps) else None


Detector = Callable[[Evidence, DriftSettings], Watch]


def variance_share(evidence: Evidence, settings: DriftSettings) -> Watch:
    """Return GPRL's statistic: divergence of the axes' shares of the raw variance from α(0)."""
    shares = floored_share(evidence.variance, settings.share_floor)
    return _distance(shares, settings, divergence)


def weighted_share(evidence: Evidence, settings: DriftSettings) -> Watch:
    """Return the same, of variances weighted by λ²."""
    shares = floored_share(evidence.weighted_variance, settings.share_floor)
    return _distance(shares, settings, divergence)


def anchored(evidence: Evidence, settings: DriftSettings) -> Watch:
    """Return the distance of the anchored score, over all axes, from its calibration mean."""
    return _distance(evidence.anchored, settings, _euclidean)


def kl_trigger(evidence: Evidence, settings: DriftSettings) -> Watch:
    """Return the smoothed KL to the reference, of a run: a planted stream has none to measure."""
    return _level(evidence.kl, settings)


def clock(evidence: Evidence, settings: DriftSettings) -> Watch:
    """Return the number of the step: an alarm at the same time in every run."""
    return Watch(torch.arange(len(evidence.kl), dtype=torch.float64), math.inf)


def disagreement(evidence: Evidence, settings: DriftSettings) -> Watch:
    """Return how far an ensemble's win probabilities lie apart, smoothed.

    Raises:
        ValueError: there is no ensemble.
    """
    if evidence.disagreement is None:
        raise ValueError("disagreement: expected an ensemble; set detectors.ensemble.")
    return _level(evidence.disagreement, settings)


def mean_length(evidence: Evidence, settings: DriftSettings) -> Watch:
    """Return the distance of the mean response length from its calibration mean."""
    return _distance(evidence.length[:, None], settings, _euclidean)


def surprise(evidence: Evidence, settings: DriftSettings) -> Watch:
    """Return the rise of -log π_ref above its lowest level. Ours."""
    levels, steps = evidence.surprise, settings.calibration_steps
    ema, quantile = settings.ema, settings.threshold_quantile
    threshold = surprise_threshold(levels[:steps], ema, quantile, settings.alarm_horizon)
    smooth = _smoothed(levels[:, None], settings)[:, 0]
    rise = smooth - smooth.cummin(0).values
    return Watch(torch.cat([rise.new_zeros(steps), rise[1:]]), threshold)


DETECTORS: tuple[Detector, ...] = (variance_share, weighted_share, anchored, mean_length, surprise)
# Of runs; and `disagreement`, if there is an ensemble.
RIVALS: tuple[Detector, ...] = (kl_trigger, clock)


def _level(values: Float[Tensor, " steps"], settings: DriftSettings) -> Watch:
    """The moving average after the calibration, and 0 before."""
    smooth = _smoothed(values[:, None], settings)[1:, 0]
    return Watch(torch.cat([smooth.new_zeros(settings.calibration_steps), smooth]), math.inf)


def _distance(
    values: Float[Tensor, "steps entries"],
    settings: DriftSettings,
    distance: Callable[[Tensor, Tensor], Tensor],
) -> Watch:
    """How far the moving average is from the mean of the calibration steps."""
    calibration = values[: settings.calibration_steps]
    threshold = bootstrap_threshold(
        calibration, settings.ema, settings.threshold_quantile, distance=distance
    )
    smooth = _smoothed(values, settings)
    found = distance(smooth[1:], smooth[:1]).clamp(min=0)
    return Watch(torch.cat([found.new_zeros(len(calibration)), found]), threshold)


def _smoothed(
    values: Float[Tensor, "steps entries"], settings: DriftSettings
) -> Float[Tensor, "watched_steps entries"]:
    """The mean of the calibration steps, and the moving average from there after each later one."""
    reference = values[: settings.calibration_steps].mean(0, keepdim=True)
    levels = [reference]
    for row in values[settings.calibration_steps :].split(1):
        levels.append(settings.ema * levels[-1] + (1 - settings.ema) * row)
    return torch.cat(levels)


def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).norm(dim=-1)
