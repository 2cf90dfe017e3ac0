"""One line that says where a training stands and how long it will take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from gprl_lightning.runtime.progress import progress
from gprl_lightning.tracking import metrics

# What stands behind the bar: its short name, the metric, how it is written.
POLICY = {
    "win": (metrics.EVAL_WIN_RATE, "{:.0%}"),
    "kl": (metrics.KL, "{:.3f}"),
    "drift": (metrics.DRIFT_DIVERGENCE, "{:.3f}"),
}
PREFERENCE_MODEL = {
    "loss": (metrics.PREFERENCE_LOSS, "{:.3f}"),
    "held-out accuracy": (metrics.HELD_OUT_ACCURACY, "{:.1%}"),
}


class IterationBar(ProgressBar):
    """A count of the loader's batches, some metrics, seconds per batch and time left.

    Args:
        description: stands before the bar.
        unit: what a batch of the loader is called.
        shown: the metrics behind the bar.
    """

    def __init__(
        self,
        description: str = "training",
        unit: str = "iteration",
        shown: Mapping[str, tuple[str, str]] = POLICY,
    ) -> None:
        super().__init__()
        self.description, self.unit, self.shown = description, unit, shown
        self.bar: Any = None
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.bar = progress(
            description=self.description,
            unit=self.unit,
            total=trainer.num_training_batches,
            done=trainer.fit_loop.epoch_loop.batch_progress.current.completed,
            shown=self.enabled and trainer.is_global_zero,
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        values = trainer.callback_metrics
        self.bar.set_postfix(
            {k: f.format(float(values[n])) for k, (n, f) in self.shown.items() if n in values},
            refresh=False,
        )
        self.bar.update()

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.bar.close()
