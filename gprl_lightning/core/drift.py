"""The drift monitor: state and one step's evidence go in, new state and control come out.

Source: GPRL, arXiv 2605.18721: above a threshold of the drift, axis multipliers move against it
and the KL coefficient rises; below it both return exponentially. The calibration, the guard and the
second statistic are ours; `gprl_lightning.core.drift_rule` has the formulas of the correction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gprl_lightning.core.drift_rule import with_outcome
from gprl_lightning.core.drift_state import (
    DriftControl,
    DriftSettings,
    DriftState,
    Floats,
    Intervention,
)
from gprl_lightning.core.surprise import surprise_threshold
from gprl_lightning.core.variance_share import (
    LEAST_THRESHOLD,
    AxisMoments,
    axis_moments,
    bootstrap_threshold,
    divergence,
    floored_share,
    variance_share,
)

__all__ = [
    "AxisMoments",
    "DriftControl",
    "DriftSettings",
    "DriftState",
    "Intervention",
    "axis_moments",
    "bootstrap_threshold",
    "divergence",
    "replay",
    "update_drift",
    "variance_share",
]


def update_drift(
    state: DriftState, moments: AxisMoments, settings: DriftSettings
) -> tuple[DriftState, DriftControl, Intervention | None]:
    """Advance the monitor and its controller by one step (GPRL).

    The first ``calibration_steps`` steps set α(0) and the threshold, at rest. A step whose
    moments hold no variance, or are not finite, is no evidence: it leaves the estimates, and the
    calibration, as they are.

    Args:
        state: after the previous step.
        moments: of this step, summed over processes.
        settings: constants.

    Returns:
        The new state, the control for what follows, and a record of the step where the controller
        corrected, or was not yet back at rest.

    Raises:
        ValueError: the moments are not of the state's axes, or lack what the guard needs.
    """
    _check(state, moments, settings)
    was_calibrated = state.calibrated
    observed = _observed(state, moments, settings)
    state = replace(observed, step=state.step + 1)
    record = _decision(observed, settings) if was_calibrated else None
    if record is not None:
        state = replace(state, multipliers=record.multipliers_after, kl_coef=record.kl_coef_after)
    return state, state.control, record


def replay(
    interventions: Iterable[Intervention], settings: DriftSettings, num_axes: int
) -> list[DriftControl]:
    """Recompute the control after each intervention from the evidence in the log, exactly.

    Raises:
        ValueError: a record does not begin where the one before it ended.
    """
    multipliers: Floats = (1.0,) * num_axes
    kl_coef = settings.kl_coef
    trajectory: list[DriftControl] = []
    for record in interventions:
        if (record.multipliers_before, record.kl_coef_before) != (multipliers, kl_coef):
            raise ValueError(
                f"The log of interventions has a gap before step {record.step}: expected "
                f"multipliers {multipliers} and a KL coefficient of {kl_coef}, found "
                f"{record.multipliers_before} and {record.kl_coef_before}."
            )
        done = with_outcome(record, settings)
        multipliers, kl_coef = done.multipliers_after, done.kl_coef_after
        trajectory.append(DriftControl.of(multipliers, kl_coef))
    return trajectory


def _check(state: DriftState, moments: AxisMoments, settings: DriftSettings) -> None:
    axes, found = len(state.multipliers), len(moments.variance_sum)
    if found != axes:
        raise ValueError(
            f"The drift state has {axes} axes, the step's moments have {found}: resume with the "
            "preference_model.num_axes that the run began with."
        )
    measured = moments.anchored_sum is not None
    if settings.guard == "anchored" and not measured:
        raise ValueError(
            "drift.guard=anchored needs anchored scores, and the step has none: "
            "set drift.anchor=true."
        )
    if state.calibration_shares and measured != bool(state.calibration_anchored[0]):
        began = str(not measured).lower()
        raise ValueError(
            "The anchored score must be measured from the first step on, or never: resume with the "
            f"drift.anchor={began} that the run began with."
        )


def _observed(state: DriftState, moments: AxisMoments, settings: DriftSettings) -> DriftState:
    """The state with this step's evidence in its estimates; the control as it was."""
    anchored = moments.anchored_score()
    measured = [moments.variance_sum, moments.surprise()]
    measured += [] if anchored is None else [anchored]
    finite = all(bool(values.isfinite().all()) for values in measured)
    if not finite or moments.variance_sum.sum() <= 0:
        return state
    variance = _with_spread(moments.variance_sum / moments.count, state, settings)
    share = _floats(floored_share(variance, settings.share_floor))
    scores = () if anchored is None else _floats(anchored)
    surprise = float(moments.surprise())
    if not state.calibrated:
        return _calibrated(state, share, _floats(variance), scores, surprise, settings)
    (level,) = _smoothed((state.surprise,), (surprise,), settings.ema)
    state = replace(
        state,
        variance_share=_smoothed(state.variance_share, share, settings.ema),
        anchored_score=_smoothed(state.anchored_score, scores, settings.ema),
        surprise=level,
        lowest_surprise=min(state.lowest_surprise, level),
    )
    drift = _drift(state, settings)
    return replace(state, drift=drift, active=drift > state.threshold)


def _with_spread(variance: Tensor, state: DriftState, settings: DriftSettings) -> Tensor:
    """The axes' variances, none under what ``spread_floor`` of its starting std makes (ours).

    An axis that saturates, as one does that has been satisfied, loses its variance; its share
    falls, the others' rise, and the rule would answer a success as if it were an exploit.
    """
    if not settings.spread_floor or not state.reference_variance:
        return variance
    least = settings.spread_floor**2 * _tensor(state.reference_variance)
    return torch.maximum(variance, least.to(variance))


def _drift(state: DriftState, settings: DriftSettings) -> float:
    if settings.statistic == "surprise":
        return state.surprise - state.lowest_surprise
    distance = divergence(_tensor(state.variance_share), _tensor(state.reference_share))
    return max(float(distance), 0.0)


def _calibrated(
    state: DriftState,
    share: Floats,
    variance: Floats,
    anchored: Floats,
    surprise: float,
    settings: DriftSettings,
) -> DriftState:
    """One more calibration step; the last one sets α(0), its anchored like, and the threshold."""
    shares = (*state.calibration_shares, share)
    variances = (*state.calibration_variance, variance)
    scores = (*state.calibration_anchored, anchored)
    surprises = (*state.calibration_surprise, surprise)
    state = replace(
        state,
        calibration_shares=shares,
        calibration_variance=variances,
        calibration_anchored=scores,
        calibration_surprise=surprises,
        variance_share=share,
        anchored_score=anchored,
        surprise=surprise,
    )
    if len(shares) < settings.calibration_steps:
        return state
    reference, anchored_reference = _mean(shares), _mean(scores)
    level = math.fsum(surprises) / len(surprises)
    threshold = settings.threshold
    if threshold == "auto":
        threshold = _auto_threshold(state, settings)
    return replace(
        state,
        reference_share=reference,
        reference_variance=_mean(variances),
        variance_share=reference,
        anchored_reference=anchored_reference,
        anchored_score=anchored_reference,
        surprise=level,
        lowest_surprise=level,
        threshold=max(float(threshold), LEAST_THRESHOLD),
    )


def _auto_threshold(state: DriftState, settings: DriftSettings) -> float:
    ema, quantile = settings.ema, settings.threshold_quantile
    if settings.statistic == "surprise":
        levels = _tensor(state.calibration_surprise)
        return surprise_threshold(levels, ema, quantile, settings.alarm_horizon)
    pool = torch.tensor(state.calibration_shares, dtype=torch.float64)
    return bootstrap_threshold(pool, ema, quantile)


def _decision(state: DriftState, settings: DriftSettings) -> Intervention | None:
    """Return the controller's next step; None if it is at rest and stays there."""
    corrects = state.active and settings.mode != "monitor_only"
    at_rest = all(m == 1 for m in state.multipliers) and state.kl_coef == settings.kl_coef
    if at_rest and not corrects:
        return None
    record = Intervention(
        step=state.step,
        action="correct" if corrects else "return",
        drift=state.drift,
        threshold=state.threshold,
        variance_share=state.variance_share,
        reference_share=state.reference_share,
        anchored_score=state.anchored_score,
        anchored_reference=state.anchored_reference,
        surprise=state.surprise,
        lowest_surprise=state.lowest_surprise,
        guarded=_guarded(state, settings),
        multipliers_before=state.multipliers,
        multipliers_after=state.multipliers,
        kl_coef_before=state.kl_coef,
        kl_coef_after=state.kl_coef,
    )
    return with_outcome(record, settings)


def _guarded(state: DriftState, settings: DriftSettings) -> tuple[bool, ...]:
    """Axes whose anchored score rose while their share fell: exploited and saturated (ours).

    Their lost variance would make the rule push them further.
    """
    axes = range(len(state.multipliers))
    if settings.guard == "none" or not state.anchored_reference:
        return tuple(False for _ in axes)
    rise = [state.anchored_score[i] - state.anchored_reference[i] for i in axes]
    return tuple(
        rise[i] > settings.guard_margin and state.variance_share[i] < state.reference_share[i]
        for i in axes
    )


def _smoothed(old: Floats, new: Floats, ema: float) -> Floats:
    return tuple(ema * a + (1 - ema) * b for a, b in zip(old, new, strict=True))


def _mean(rows: Sequence[Floats]) -> Floats:
    return tuple(math.fsum(column) / len(rows) for column in zip(*rows, strict=True))


def _floats(values: Tensor) -> Floats:
    return tuple(float(value) for value in values.detach().cpu().double())


def _tensor(values: Floats) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
