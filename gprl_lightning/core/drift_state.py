"""What the drift controller remembers, hands out and logs.

State and log hold plain Python numbers, so that both survive JSON and a checkpoint bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.options import Guard, Mode, Reweight, Share, Statistic

Floats = tuple[float, ...]


@dataclass(frozen=True)
class DriftSettings:
    """The controller's constants; `gprl_lightning.config.DriftConfig` says what each one means.

    ``kl_coef`` is β₀, the KL coefficient at rest.
    """

    mode: Mode = "full"
    statistic: Statistic = "variance_share"
    share: Share = "raw"
    spread_floor: float = 0.0
    guard: Guard = "none"
    threshold: float | Literal["auto"] = "auto"
    threshold_quantile: float = 0.99
    alarm_horizon: int = 200
    calibration_steps: int = 10
    ema: float = 0.9
    share_floor: float = 1e-3
    reweight: Reweight = "balanced"
    reweight_rate: float = 0.5
    multiplier_bound: float = 4.0
    kl_gain: float = 0.5
    kl_bound: float = 10.0
    return_rate: float = 0.95
    guard_margin: float = 0.25
    kl_coef: float = 0.02


@dataclass(frozen=True)
class DriftControl:
    """What the update obeys: m of each axis (float64, on the CPU), and β."""

    axis_multipliers: Float[Tensor, " axes"]
    kl_coef: float

    @classmethod
    def of(cls, multipliers: Floats, kl_coef: float) -> DriftControl:
        return cls(torch.tensor(multipliers, dtype=torch.float64), kl_coef)


@dataclass(frozen=True)
class DriftState:
    """All that the controller remembers. Anchored values are empty where they are not measured.

    Attributes:
        step: updates so far.
        calibration_shares: variance share of each calibration step so far.
        calibration_variance: mean variance of each axis in each calibration step so far.
        calibration_anchored: anchored score of each calibration step so far.
        calibration_surprise: surprise of each calibration step so far.
        reference_share: α(0); uniform until calibrated.
        reference_variance: mean variance of each axis over the calibration; empty until then.
        variance_share: α(t), the moving average; the last step's share until calibrated.
        anchored_reference: mean anchored score over the calibration.
        anchored_score: δ(t), the moving average.
        surprise: the moving average, in nats per token; the last step's until calibrated.
        lowest_surprise: the least moving average so far; infinite until calibrated.
        threshold: of the drift, in its units; infinite until calibrated.
        drift: 𝒟(t), in nats, or the rise of the surprise, in nats per token; 0 until calibrated.
        active: the drift is above its threshold.
        multipliers: m of each axis.
        kl_coef: β.
    """

    step: int
    calibration_shares: tuple[Floats, ...]
    calibration_variance: tuple[Floats, ...]
    calibration_anchored: tuple[Floats, ...]
    calibration_surprise: Floats
    reference_share: Floats
    reference_variance: Floats
    variance_share: Floats
    anchored_reference: Floats
    anchored_score: Floats
    surprise: float
    lowest_surprise: float
    threshold: float
    drift: float
    active: bool
    multipliers: Floats
    kl_coef: float

    @classmethod
    def initial(cls, settings: DriftSettings, num_axes: int) -> DriftState:
        """Return the state at rest, before the first calibration step."""
        uniform, rest = (1.0 / num_axes,) * num_axes, (1.0,) * num_axes
        return cls(
            step=0,
            calibration_shares=(),
            calibration_variance=(),
            calibration_anchored=(),
            calibration_surprise=(),
            reference_share=uniform,
            reference_variance=(),
            variance_share=uniform,
            anchored_reference=(),
            anchored_score=(),
            surprise=0.0,
            lowest_surprise=math.inf,
            threshold=math.inf,
            drift=0.0,
            active=False,
            multipliers=rest,
            kl_coef=settings.kl_coef,
        )

    @property
    def calibrated(self) -> bool:
        return math.isfinite(self.threshold)

    @property
    def control(self) -> DriftControl:
        return DriftControl.of(self.multipliers, self.kl_coef)

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists."""
        return _plain(self)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> DriftState:
        """Return the state that `state_dict` wrote, bit for bit.

        Raises:
            ValueError: keys are missing or unknown, as in a checkpoint of another version.
        """
        return cls(**_checked(cls, state))


@dataclass(frozen=True)
class Intervention:
    """One step of the controller away from rest, with all that the step depended on.

    Attributes:
        step: the update, counted from 0.
        action: ``correct`` above the threshold, ``return`` below it.
        drift, threshold: in nats, or in nats per token for the surprise.
        variance_share, reference_share: α(t) and α(0).
        anchored_score, anchored_reference: δ(t) and its calibration mean; empty where not measured.
        surprise, lowest_surprise: now, and the least so far.
        guarded: axes that the guard holds still in this step.
        multipliers_before, multipliers_after: m of each axis.
        kl_coef_before, kl_coef_after: β.
    """

    step: int
    action: Literal["correct", "return"]
    drift: float
    threshold: float
    variance_share: Floats
    reference_share: Floats
    anchored_score: Floats
    anchored_reference: Floats
    surprise: float
    lowest_surprise: float
    guarded: tuple[bool, ...]
    multipliers_before: Floats
    multipliers_after: Floats
    kl_coef_before: float
    kl_coef_after: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, for a JSON log."""
        return _plain(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Intervention:
        """Return the record that `to_dict` wrote, bit for bit.

        Raises:
            ValueError: keys are missing or unknown.
        """
        return cls(**_checked(cls, record))


def _plain(record: DriftState | Intervention) -> dict[str, Any]:
    """The fields of a record, tuples as lists."""
    return {field.name: _listed(getattr(record, field.name)) for field in fields(record)}


def _listed(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_listed(entry) for entry in cast("tuple[Any, ...]", value)]
    return value


def _tupled(value: Any) -> Any:
    """Lists as tuples, through and through."""
    if isinstance(value, list | tuple):
        return tuple(_tupled(entry) for entry in cast("list[Any]", value))
    return value


def _checked(cls: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record, lists as tuples; exactly the fields that ``cls`` has."""
    expected = {field.name for field in fields(cls)}
    if expected != set(record):
        raise ValueError(
            f"A stored {cls.__name__} has other fields than this version: missing "
            f"{sorted(expected - set(record))}, unknown {sorted(set(record) - expected)}."
        )
    return {name: _tupled(value) for name, value in record.items()}
