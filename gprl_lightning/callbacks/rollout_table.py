"""What the policy said, and what it was given for it: every few iterations, to disk and to W&B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from gprl_lightning.config.section import Count
from gprl_lightning.core.iteration import ITERATION, Iteration
from gprl_lightning.runtime.disk import or_warn
from gprl_lightning.runtime.processes import of_every_process
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.rollout_log import (
    ADVANTAGE,
    EIGENVALUE,
    SCORE,
    LoggedRollout,
    Row,
    rollout_file,
    rollout_rows,
    write_rows,
)
from gprl_lightning.tracking.wandb_logger import GPRLWandbLogger, table


class RolloutTable(L.Callback):
    """Logs the whole rollout of the first iteration, of every `every`-th, and of the last.

    To ``rollouts/iteration_000020.csv`` in the run's folder, which `cli.inspect` prints and checks;
    and, if W&B logs the run, as a table, as histograms of group scores and advantages per axis, and
    as an image of the first group's win probabilities.

    Args:
        folder: the run's folder.
        every: iterations between tables.
    """

    def __init__(self, folder: str | Path, every: Count = 20):
        self.folder, self.every = Path(folder), every

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        iteration: Iteration = outputs[ITERATION]
        done = iteration.index + 1
        if iteration.group is None:  # nothing was sampled
            return
        if done % self.every and done not in (1, trainer.num_training_batches):
            return
        rows = rollout_rows(iteration.group.scored)
        rows = _of_all_processes(rows)
        if not trainer.is_global_zero:
            return
        file = rollout_file(self.folder, done)
        with or_warn(file, "this rollout is not logged"):
            write_rows(file, rows)
        for logger in trainer.loggers:
            if isinstance(logger, GPRLWandbLogger):
                logger.log_media(lambda: media(rows), done)


def _of_all_processes(rows: list[Row]) -> list[Row]:
    """Every process's rows in order of rank, their groups counted on."""
    groups = rows[-1]["group"] + 1
    return [
        {**row, "group": row["group"] + rank * groups}
        for rank, part in enumerate(of_every_process(rows))
        for row in part
    ]


def media(rows: list[Row]) -> dict[str, Any]:
    """Return wandb's table, histograms and image of a rollout, by metric name."""
    import wandb

    shown = ("prompt", "response", "stop_reason", "length", "advantage")
    axes = [c.removeprefix(SCORE + "/") for c in rows[0] if c.startswith(SCORE + "/")]
    per_axis = [metrics.per_axis(n, a) for a in axes for n in (SCORE, ADVANTAGE, EIGENVALUE)]
    columns = ["group", *shown, *per_axis]
    histograms = {
        metrics.per_axis(name, axis): wandb.Histogram(
            [row[metrics.per_axis(column, axis)] for row in rows]
        )
        for name, column in (
            (metrics.AXIS_GROUP_SCORE, SCORE),
            (metrics.AXIS_ADVANTAGE, ADVANTAGE),
        )
        for axis in axes
    }
    return {
        metrics.RESPONSES: table(columns, [[row[c] for c in columns] for row in rows]),
        metrics.WIN_PROBABILITY: wandb.Image(
            _matrix_picture(LoggedRollout.from_rows(rows).win_probabilities()[0].tolist()),
            caption=rows[0]["prompt"],
        ),
        **histograms,
    }


def _matrix_picture(probabilities: list[list[float]]) -> Any:
    """The G × G matrix as an RGB array: row i, column j: how likely response i beats response j."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = len(probabilities)
    side = max(3.5, 0.5 * size)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    picture = axes.imshow(probabilities, cmap="RdBu", vmin=0, vmax=1)
    axes.set(xlabel="against response", ylabel="response", title="win probability")
    axes.set_xticks(range(size))
    axes.set_yticks(range(size))
    for i, row in enumerate(probabilities):
        for j, value in enumerate(row):
            colour = "black" if 0.2 < value < 0.8 else "white"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(picture)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
