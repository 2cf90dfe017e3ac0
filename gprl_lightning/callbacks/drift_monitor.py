"""The closed-loop drift monitor as a callback (METHOD §3).

It owns the controller's state, reads each iteration's axis moments, and hands the module a frozen
`DriftControl`: the axis multipliers and the KL coefficient of the next iteration. Without this
callback the module stays at rest. Every intervention is kept, and is written to
``drift_interventions.csv``.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L

from gprl_lightning.core.drift import (
    AxisMoments,
    DriftSettings,
    DriftState,
    Intervention,
    axis_moments,
    update_drift,
)
from gprl_lightning.core.iteration import ITERATION, GroupResult
from gprl_lightning.core.surprise import group_surprise
from gprl_lightning.errors import ConfigError
from gprl_lightning.runtime.disk import or_warn
from gprl_lightning.runtime.processes import several, sum_over_processes
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.wandb_logger import GPRLWandbLogger


class DriftMonitor(L.Callback):
    """Watches single-axis exploitation and corrects it on the fly.

    Args:
        settings: thresholds, rates and mode of the controller.
        num_axes: k of the preference model.
        folder: where ``drift_interventions.csv`` goes; None writes nothing.
    """

    def __init__(self, settings: DriftSettings, num_axes: int, folder: Path | None = None):
        self.settings, self.folder = settings, folder
        self.state = DriftState.initial(settings, num_axes)
        self.interventions: list[Intervention] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.control = self.state.control  # again after a resume, so that it goes on bit-equal

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        group: GroupResult | None = outputs[ITERATION].group
        if group is None:
            raise ConfigError(
                f"drift.enabled=true: expected an objective that samples groups; found "
                f"{type(pl_module).__name__}, which does not. Set drift=disabled."
            )
        scored = group.scored
        rollout = scored.rollout
        surprise = group_surprise(scored.ref_logprobs, rollout.response_mask, rollout.group_size)
        moments = axis_moments(
            scored.group_scores,
            scored.eigenvalues,
            self.settings.share,
            scored.anchored_scores,
            surprise,
        )
        if several():
            moments = moments.summed(sum_over_processes)
        self.state, pl_module.control, intervention = update_drift(
            self.state, moments, self.settings
        )
        if intervention is not None:
            self.interventions.append(intervention)
        self._log(pl_module, moments, scored.axes)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._write(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        """The interventions as a CSV, and as a table on W&B."""
        if not trainer.is_global_zero or not self.interventions:
            return
        rows = [i.to_dict() for i in self.interventions]
        if self.folder is not None:
            place = self.folder / "drift_interventions.csv"
            # After a failure as well, whose cause this must not hide.
            with or_warn(place, "they are in the checkpoint"), place.open("w", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        for logger in trainer.loggers:
            if isinstance(logger, GPRLWandbLogger):
                logger.log_records(metrics.DRIFT_INTERVENTIONS, rows, rows[-1]["step"] + 1)

    def _log(self, pl_module: Any, moments: AxisMoments, axes: tuple[str, ...]) -> None:
        state = self.state
        values: dict[str, float] = {
            metrics.DRIFT_DIVERGENCE: state.drift,
            metrics.DRIFT_ACTIVE: float(state.active),
            metrics.DRIFT_KL_COEF: state.kl_coef,
            metrics.DRIFT_SURPRISE: float(moments.surprise()),
        }
        if state.calibrated:
            values[metrics.DRIFT_THRESHOLD] = state.threshold
        anchored = moments.anchored_score()
        per_axis = {
            metrics.AXIS_VARIANCE_SHARE: state.variance_share,
            metrics.AXIS_MULTIPLIER: state.multipliers,
            metrics.AXIS_ANCHORED_SCORE: () if anchored is None else anchored.tolist(),
        }
        for name, row in per_axis.items():
            values |= {
                metrics.per_axis(name, axis): float(v) for axis, v in zip(axes, row, strict=False)
            }
        pl_module.log_dict(values)

    def state_dict(self) -> dict[str, Any]:
        return {
            "state": self.state.state_dict(),
            "interventions": [i.to_dict() for i in self.interventions],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = DriftState.from_state_dict(state_dict["state"])
        self.interventions = [Intervention.from_dict(i) for i in state_dict["interventions"]]
