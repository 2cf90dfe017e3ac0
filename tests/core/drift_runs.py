"""Runs of the drift controller on made-up moments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gprl_lightning.core.drift import (
    AxisMoments,
    DriftSettings,
    DriftState,
    Intervention,
    update_drift,
)

UNIFORM = (1.0, 1.0, 1.0)
QUICK = DriftSettings(threshold=0.05, calibration_steps=3, ema=0.0)


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def moments(
    variances: tuple[float, ...],
    anchored: tuple[float, ...] | None = None,
    surprise: float = 0.5,
) -> AxisMoments:
    """Of two groups."""
    sums = None if anchored is None else 2 * double(anchored)
    return AxisMoments(double(variances), sums, 2 * double(surprise), double(2.0))


def play(
    settings: DriftSettings, steps: list[AxisMoments], state: DriftState | None = None
) -> tuple[list[DriftState], list[Intervention]]:
    state = DriftState.initial(settings, len(steps[0].variance_sum)) if state is None else state
    states, log = [], []
    for step in steps:
        state, control, record = update_drift(state, step, settings)
        assert control.axis_multipliers.tolist() == list(state.multipliers)
        assert control.kl_coef == state.kl_coef
        states.append(state)
        log += [] if record is None else [record]
    return states, log


def noisy(steps: int, axes: int = 3, seed: int = 0, tilt: float = 0.0) -> list[AxisMoments]:
    generator = torch.Generator().manual_seed(seed)
    noise = 1 + 0.2 * torch.rand(steps, axes, generator=generator, dtype=torch.float64)
    noise[:, 0] *= 1 + tilt
    return [AxisMoments(row, None, row[0] + tilt, double(2.0)) for row in noise]


def eventful(anchored: bool = True) -> list[AxisMoments]:
    """Calibration, drift, calm, and drift again: 72 steps, noisy throughout."""
    phases = [(12, 0.0), (10, 3.0), (40, 0.0), (10, 6.0)]
    steps = [step for i, (n, tilt) in enumerate(phases) for step in noisy(n, seed=i, tilt=tilt)]
    if not anchored:
        return steps
    return [replace(s, anchored_sum=0.1 * i * double([1.0, 0.0, 2.0])) for i, s in enumerate(steps)]
