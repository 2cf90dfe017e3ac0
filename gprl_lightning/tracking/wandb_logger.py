"""Weights & Biases by Lightning's logger: counted in iterations, and never in a run's way.

wandb is imported when a run starts, so that a run without W&B does not pay for it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from gprl_lightning.config.section import Seconds
from gprl_lightning.tracking.metrics import ITERATION


class GPRLWandbLogger(WandbLogger):
    """One W&B run per job, with ``trainer/iteration`` as the x-axis of everything.

    Logging is asynchronous, and whatever W&B raises is shown once and then held back: a service
    that is down, slow or dies costs no step. If it cannot be reached at the start, the run is
    logged offline.

    Args:
        save_dir: the run's folder; W&B's files go to ``wandb/`` in it.
        mode: ``online``, ``offline`` (send later by ``wandb sync``) or ``disabled``.
        project: W&B's project.
        entity: user or team; None: the account's default.
        group: what this run is a part of.
        name: shown for this run; None: the folder's name.
        tags: to filter by.
        notes: free text.
        job_type: the task.
        log_model: True: the last checkpoint as an artifact; ``all``: each.
        init_timeout: seconds to wait for the service at the start.
        finish_timeout: seconds to wait for uploads at the end; what is left: ``wandb sync``.
    """

    def __init__(
        self,
        save_dir: str | Path,
        mode: str = "offline",
        project: str = "gprl",
        entity: str | None = None,
        group: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
        job_type: str | None = None,
        log_model: bool | Literal["all"] = False,
        init_timeout: Seconds = 30,
        finish_timeout: Seconds = 300,
    ):
        super().__init__(
            name=name or Path(save_dir).resolve().name,
            save_dir=save_dir,
            project=project,
            log_model=log_model,
            mode=mode,
            entity=entity,
            group=group,
            tags=list(tags),
            notes=notes,
            job_type=job_type,
            reinit="finish_previous",  # a run that was left open would take this one's metrics
            settings={
                "init_timeout": init_timeout,
                "finish_timeout": finish_timeout,
                "silent": mode == "offline",  # our own line, at the end, says how to sync
                "stop_fn": _stop_this_run,  # of the page's "stop run"
            },
        )
        del self._wandb_init["anonymous"]  # Lightning's; wandb has no such option any more
        self.last_checkpoint: Path | None = None
        self._offline_folder: str | None = None
        self._warned = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run; the first call starts it."""
        if self._experiment is None:
            self._experiment = self._start()
        return self._experiment

    def _start(self) -> Any:
        run = self._init()
        if run.settings.mode == "offline":
            self._offline_folder = run.settings.sync_dir
        run.define_metric(ITERATION)
        run.define_metric("*", step_metric=ITERATION, step_sync=True)
        return run

    def _init(self) -> Any:
        """The run in the mode asked for; else offline; else one that drops what it is given."""
        import wandb

        with suppress(AttributeError):  # a W&B that has no such method
            _skip_launch()
        for instead in ("offline", "disabled"):
            try:
                return wandb.init(**self._wandb_init)
            except Exception as error:  # of any kind: training needs no W&B
                mode = self._wandb_init["mode"]
                rank_zero_warn(f"W&B ({mode}) did not start, so this run is {instead}: {error}")
                _restart_wandb()
                self._wandb_init["mode"] = instead
                self._wandb_init["settings"]["silent"] = True
        return wandb.init(**self._wandb_init)

    def _safely(self, action: Callable[[], Any]) -> None:
        """Do it; a failure is shown once, and never reaches the run."""
        try:
            action()
        except Exception as error:
            if not self._warned:
                rank_zero_warn(f"W&B failed, and the run goes on without it: {error!r}")
            self._warned = True

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        self._safely(lambda: WandbLogger.log_hyperparams(self, params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {name: value for name, value in metrics.items() if name != "epoch"}
        if step is not None:
            row.setdefault(ITERATION, step)
        self._safely(lambda: self.experiment.log(row))

    @rank_zero_only
    def log_media(self, make: Callable[[], Mapping[str, Any]], step: int) -> None:
        """Log what `make` makes of wandb's tables, images and histograms.

        Args:
            make: called here, so that its failures do not reach the run either.
            step: the iteration.
        """
        self._safely(lambda: self.experiment.log({**make(), ITERATION: step}))

    def log_records(self, name: str, records: Sequence[Mapping[str, Any]], step: int) -> None:
        """Log records with equal keys as a table; whatever is not a number is shown as text."""
        columns = list(records[0])
        cells = [[_cell(record[c]) for c in columns] for record in records]
        self.log_media(lambda: {name: table(columns, cells)}, step)

    @rank_zero_only
    def log_checkpoint(self, file: Path) -> None:
        """Keep a checkpoint that has just been written as an artifact if ``log_model`` says so."""
        if self._log_model == "all":
            self._safely(lambda: self._upload(file))
        elif self._log_model:
            self.last_checkpoint = file

    def _upload(self, file: Path) -> None:
        import wandb

        artifact = wandb.Artifact(f"checkpoint-{self.experiment.id}", "model")
        add = artifact.add_dir if file.is_dir() else artifact.add_file
        add(str(file))
        self.experiment.log_artifact(artifact, aliases=["latest", file.stem])

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self._safely(lambda: WandbLogger.after_save_checkpoint(self, checkpoint_callback))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._safely(lambda: WandbLogger.finalize(self, status))

    @rank_zero_only
    def close(self, exit_code: int) -> None:
        """End W&B's run; without this the next job of a multirun would go on in it."""
        run = self._experiment
        if run is None:
            return
        if self.last_checkpoint is not None:
            file = self.last_checkpoint
            self._safely(lambda: self._upload(file))
        self._safely(lambda: run.finish(exit_code=exit_code))
        if self._warned:
            _restart_wandb()
        if self._offline_folder is not None:
            print(f"W&B is offline; to send this run: wandb sync {_short(self._offline_folder)}")


def _stop_this_run() -> None:
    """As a cluster asks for it: the run finishes its iteration, saves it, and ends."""
    os.kill(os.getpid(), signal.SIGTERM)


@cache
def _skip_launch() -> None:
    """Have W&B look for Launch's inputs only where its module, which alone can stage them, is
    loaded: it would import all of Launch in every run, for seconds, to find none."""
    from wandb.sdk.wandb_run import Run

    look = Run._detect_and_apply_job_inputs

    def look_if_loaded(self: Run) -> None:
        if "wandb.sdk.launch.inputs.internal" in sys.modules:
            look(self)

    Run._detect_and_apply_job_inputs = look_if_loaded


def _restart_wandb() -> None:
    """Leave W&B's process behind: one that is broken must not be the next run's."""
    import wandb

    with suppress(Exception):
        wandb.teardown()


def table(columns: Any, cells: Any) -> Any:
    """Return wandb's table of these columns and rows."""
    import wandb

    return wandb.Table(columns, cells)


def _cell(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else str(value)


def _short(path: str) -> str:
    return min(path, os.path.relpath(path), key=len)
