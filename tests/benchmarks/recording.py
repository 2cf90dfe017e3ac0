"""A short run of ``train.py``'s task inside this process, and what each of its iterations cost."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, ClassVar

import lightning as L

from gprl_lightning.config.validation import validate
from gprl_lightning.tasks.train_policy import train_policy
from tests.benchmarks.setups import Setup, World, overrides
from tests.composing import composed

CPU, WALL = "cpu_seconds", "wall_seconds"


class Record(L.Callback):
    """From the start of each iteration to the start of the next: seconds, and what was logged."""

    rows: ClassVar[list[dict[str, float]]] = []  # of the last run: Hydra made the callback

    def __init__(self) -> None:
        self.rows.clear()
        self.began = (0.0, 0.0)
        self.logged: dict[str, float] = {}

    def on_train_batch_start(self, *_: Any) -> None:
        now = process_time(), perf_counter()
        if self.logged:
            cpu, wall = (b - a for a, b in zip(self.began, now, strict=True))
            self.rows.append({CPU: cpu, WALL: wall, **self.logged})
        self.began = now

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}


def recorded(setup: Setup, world: World, iterations: int, *more: str) -> list[dict[str, float]]:
    """Rows of `iterations` iterations, after one that warms up."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = composed(
            *overrides(setup, world),
            f"iterations={iterations + 2}",  # the last one's end is not seen
            "checkpoint_every=1000",
            "callbacks=none",
            "+callbacks.record._target_=tests.benchmarks.recording.Record",
            *more,
        )
        train_policy(validate(cfg), cfg, Path(folder))
    return Record.rows[1:]
