"""Warns on the console as soon as a run's metrics leave the bounds of `tracking.cautions`."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L

from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.cautions import WATCHED, WINDOW, result_cautions


class Caution(L.Callback):
    """Prints each caution once, when it first holds over a whole window of iterations, or after an
    evaluation."""

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {name: [] for name in WATCHED}
        self.said: set[str] = set()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, values in self.history.items():
            if name in trainer.callback_metrics:
                values.append(float(trainer.callback_metrics[name]))
        full = {name: values for name, values in self.history.items() if len(values) >= WINDOW}
        evaluated = {
            name: [float(value)]
            for name, value in trainer.callback_metrics.items()
            if name.rpartition("/")[0] in metrics.OF_COMPARISONS
        }
        for name, text in result_cautions(full | evaluated).items():
            if name not in self.said and trainer.is_global_zero:
                self.said.add(name)
                say([text])


def say(cautions: list[str]) -> None:
    """Print each caution on a line of its own, beside the progress bar."""
    for text in cautions:
        sys.stderr.write(f"\ncaution: {text}\n")
