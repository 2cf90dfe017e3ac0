"""One line that says where a run stands and how long it will take."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm.auto import tqdm

from gprl_lightning.tracking import metrics


class IterationBar(ProgressBar):
    """Iteration, held-out win rate, KL, drift, seconds per iteration and time left."""

    def __init__(self) -> None:
        super().__init__()
        self.bar: Any = None
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        self.bar = tqdm(
            total=trainer.num_training_batches,
            initial=done,
            desc="training",
            unit="iteration",
            dynamic_ncols=True,
            # Seconds per iteration, also where there are several in a second.
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}"
            "{postfix}]",
            mininterval=0.5 if sys.stderr.isatty() else 10,
            disable=not (self.enabled and trainer.is_global_zero),
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        shown = {
            "win": (metrics.EVAL_WIN_RATE, "{:.0%}"),
            "kl": (metrics.KL, "{:.3f}"),
            "drift": (metrics.DRIFT_DIVERGENCE, "{:.3f}"),
        }
        values = trainer.callback_metrics
        self.bar.set_postfix(
            {k: f.format(float(values[n])) for k, (n, f) in shown.items() if n in values},
            refresh=False,
        )
        self.bar.update()

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.bar.close()
