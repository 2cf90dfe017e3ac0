"""Replays another run's KL coefficients, iteration by iteration: a control for the drift monitor.

An arm that does without the monitor, but is given the β that a monitored run arrived at, tells what
the monitor's verdicts are worth beyond the extra KL penalty that they bring. Ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L

from gprl_lightning.core.iteration import ITERATION
from gprl_lightning.errors import ConfigError
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.metrics_file import read_metrics


class KLSchedule(L.Callback):
    """Sets β from a list.

    Args:
        kl_coefs: β of each iteration, the first iteration's first.
    """

    def __init__(self, kl_coefs: Sequence[float]):
        self.kl_coefs = tuple(kl_coefs)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        pl_module.control = replace(pl_module.control, kl_coef=self.kl_coefs[batch.iteration])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        following = min(
            outputs[ITERATION].index + 1, len(self.kl_coefs) - 1
        )  # as the monitor logs it
        pl_module.log(metrics.DRIFT_KL_COEF, self.kl_coefs[following])


def read_schedule(file: str | Path, iterations: int, kl_coef: float) -> list[float]:
    """Read β of each iteration of a finished run, from its ``metrics.csv``.

    The monitor logs the β that it has just set, which is that of the iteration after.

    Args:
        file: a ``metrics.csv`` with the column ``drift/kl_coef``.
        iterations: of the run that is to replay it.
        kl_coef: β of the first iteration, before the monitor has said anything.

    Raises:
        ConfigError: no such file, no such column, or fewer iterations than are needed.
    """
    key = f"drift.schedule={file}"
    if not Path(file).is_file():
        raise ConfigError(
            f"{key}: expected the metrics.csv of a finished run; there is no such file. Give "
            "another path, or run that one first (in a grid: the same command again)."
        )
    steps, values = read_metrics(file).get(metrics.DRIFT_KL_COEF, ([], []))
    after = dict(zip(steps, values, strict=True))
    missing = [step for step in range(1, iterations) if step not in after]
    if missing:
        raise ConfigError(
            f"{key}: expected {metrics.DRIFT_KL_COEF} of iterations 1 to {iterations - 1}; found "
            f"none for iteration {missing[0]}. Give a run with a drift monitor (drift=full) that "
            f"is as long, or set iterations={missing[0]}."
        )
    return [kl_coef, *(after[step] for step in range(1, iterations))]
