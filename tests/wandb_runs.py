"""Tiny runs logged by W&B as `train_policy` has them logged, and what must have arrived."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from gprl_lightning.callbacks.rollout_table import RolloutTable
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.loggers import recorded_by
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.wandb_logger import GPRLWandbLogger
from tests.wandb_backend import private
from tests.wandb_log import OfflineRun, offline_folders, read_offline_run
from tests.wandb_state import RemoteRun
from tests.worlds import tiny_loader, tiny_module, tiny_trainer

CONFIG = {"algorithm": {"normalization": "per_axis", "clip_epsilon_high": None}, "seed": 3}


@contextmanager
def new_machine(folder: Path, more: dict[str, str]) -> Iterator[None]:
    """wandb without account or settings but those of `more`, its own files in `folder`."""
    import wandb

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name, value in {**private(folder), **more}.items():
            patch.setenv(name, value)
        wandb.teardown()
        yield
        wandb.teardown()


def wandb_run(folder: Path, iterations: int = 4, callbacks: Any = (), **options: Any) -> None:
    """A tiny run as `train_policy` makes one, logged by W&B."""
    folder.mkdir(exist_ok=True)
    module = tiny_module(iterations=iterations)
    trainer = tiny_trainer(folder, callbacks=[RolloutTable(folder, every=2), *callbacks])
    trainer.loggers = [*trainer.loggers, GPRLWandbLogger(folder, **options)]
    with recorded_by(trainer.loggers, OmegaConf.create(CONFIG)):
        trainer.fit(module, tiny_loader(module, iterations))


def offline_runs(folder: Path) -> list[tuple[Path, OfflineRun]]:
    """Read back what lies under `folder`, once W&B's process has written all of it."""
    import wandb

    wandb.teardown()
    return [(log, read_offline_run(log)) for log in offline_folders(folder)]


def offline_run(folder: Path) -> OfflineRun:
    ((_, run),) = offline_runs(folder)
    return run


def check_history(folder: Path, run: OfflineRun | RemoteRun, iterations: int = 4) -> None:
    """Every metric of metrics.csv is on W&B, at its iteration."""
    columns = read_metrics(folder / "metrics.csv")
    assert {metrics.LOSS, metrics.DRIFT_KL_COEF, "axis/multiplier/2"} <= set(columns)
    for name, (steps, values) in columns.items():
        logged = [(r[metrics.ITERATION], r[name]) for r in run.history if name in r]
        assert logged == list(zip(steps, map(pytest.approx, values), strict=True)), name
    assert len(columns[metrics.LOSS][0]) == iterations
    assert "epoch" not in run.summary and "trainer/global_step" not in run.summary
