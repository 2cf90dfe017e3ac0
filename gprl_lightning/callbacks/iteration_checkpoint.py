"""Checkpoints by iteration, written whole or not at all, on a disk that has room for them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger

from gprl_lightning.callbacks.random_state import random_state, set_random_state
from gprl_lightning.core.iteration import ITERATION
from gprl_lightning.errors import (
    CheckpointCorrupt,
    ConfigError,
    InvariantError,
    NotWritten,
    OutOfDisk,
)
from gprl_lightning.runtime.checkpoint_files import checkpoints, remove
from gprl_lightning.runtime.checkpoint_io import KEY, PlainCheckpointIO, flush
from gprl_lightning.runtime.disk import FULL
from gprl_lightning.runtime.preemption import Preempted, StopSignals
from gprl_lightning.runtime.processes import max_over_processes, of_every_process, rank
from gprl_lightning.runtime.run_identity import (
    Header,
    RunIdentity,
    as_saved,
    changed_contents,
    from_saved,
)
from gprl_lightning.tracking.loggers import MetricsCSV
from gprl_lightning.tracking.wandb_logger import GPRLWandbLogger


class IterationCheckpoint(Checkpoint):
    """Saves ``iteration_000020.ckpt`` every `every` iterations and after the last, the newest kept.

    Lightning runs checkpoint callbacks after all others, so that each file holds the state that the
    next iteration starts from: policy, optimiser, schedule, monitor, random state, data position.

    Told to stop by a signal (`StopSignals`), it finishes the iteration, saves it, and exits with
    the signal's code.

    Args:
        folder: where checkpoints go.
        every: iterations between checkpoints.
        keep: how many of the newest to keep.

    Attributes:
        identity: of the run, for its checkpoints; None: they do not say.
    """

    def __init__(self, folder: Path, every: int, keep: int = 2):
        self.folder, self.every, self.keep = folder, every, keep
        self.identity: RunIdentity | None = None
        self.stop = StopSignals()
        self.io = PlainCheckpointIO()
        self._random_state: Any = None
        self._restoring = False

    @contextmanager
    def restoring(self, checkpoint: Path | None) -> Iterator[None]:
        """Wrap a fit: what does not fit in the checkpoint is its error, until `restored`.

        Raises:
            CheckpointCorrupt: something in it is missing, or has another type or shape.
        """
        self._restoring = checkpoint is not None
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if not self._restoring or isinstance(error, (InvariantError, ConfigError)):
                raise
            found = f"{type(error).__name__}: {error}"[:300]
            raise CheckpointCorrupt(
                f"ckpt_path: expected what this run restores from in {checkpoint}; found {found} "
                "Go on from an earlier checkpoint."
            ) from error

    def restored(self, trainer: L.Trainer) -> None:
        """Say that all is restored. The first step is too late to find that moments do not fit.

        Raises:
            ValueError: an optimiser's moment has not its parameter's shape.
        """
        for optimizer in trainer.optimizers if self._restoring else ():
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    if torch.is_tensor(value) and value.ndim and value.shape != parameter.shape:
                        raise ValueError(f"{name} is {value.shape}, its weight {parameter.shape}.")
        self._restoring = False

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        trainer.strategy.checkpoint_io = self.io
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            for partial in self.folder.glob("*.partial"):  # a kill while one was being written
                remove(partial)
            require_space(self.folder, self.keep, checkpoint_bytes(pl_module))

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.stop.listen()
        if self._random_state is not None:
            follow_schedule(trainer)
            set_random_state(self._random_state)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done, last = outputs[ITERATION].index + 1, trainer.num_training_batches
        stopping = self.stop.on_any_process()
        # What a callback has ended is saved here: at the fit's end the epoch counts as done, and a
        # resume would find nothing left to do.
        if stopping or trainer.should_stop or done % self.every == 0 or done == last:
            path = self.save(trainer, done)
            if stopping and done < last:
                _write_metrics(trainer, done, GPRLWandbLogger)
                if trainer.is_global_zero:
                    print(f"Told to stop: saved {path}. The same command in this folder goes on.")
                self.stop.hand_over()
                raise Preempted(path, stopping)

    def save(self, trainer: L.Trainer, iteration: int) -> Path:
        """Write to a neighbouring name, then rename: no reader ever sees half a file."""
        path = self.folder / f"iteration_{iteration:06d}.ckpt"
        partial = path.with_suffix(".partial")
        # Lightning hands an iteration's metrics to the loggers after this callback: a kill in
        # between would leave a checkpoint whose own iteration is missing from metrics.csv.
        _write_metrics(trainer, iteration, MetricsCSV)
        trainer.save_checkpoint(partial, weights_only=False)
        failure = self.io.failure
        if trainer.is_global_zero and failure is None:
            failure = self._publish(partial, path)
        if max_over_processes(torch.tensor([float(failure is not None)])) > 0:
            if trainer.is_global_zero:
                remove(partial)
            raise not_written(path, failure)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, GPRLWandbLogger):
                    logger.log_checkpoint(path)
        return path

    def _publish(self, partial: Path, path: Path) -> OSError | None:
        """Give the file its name, and remove the oldest."""
        try:
            if path.is_dir():  # which no rename replaces
                remove(path)
            partial.replace(path)
            flush(self.folder)
            for old in checkpoints(self.folder)[: -self.keep]:
                remove(old)
        except OSError as error:
            return error
        return None

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["random_state"] = of_every_process(random_state())
        iteration = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        files = [log for log in trainer.loggers if isinstance(log, MetricsCSV)]
        rows = files[0].rows_on_disk(iteration) if files else None
        checkpoint[KEY] = as_saved(Header(iteration, rows, self.identity))

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        states = checkpoint["random_state"]
        self._random_state = states[rank() % len(states)]
        # A run that had ended goes on if it is now to be longer.
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        progress["is_last_batch"] = progress["current"]["ready"] >= pl_module.iterations
        header = from_saved(checkpoint[KEY])
        saved = header.identity if header else None
        if self.identity is not None and saved is not None:
            use_new_options(checkpoint, saved.config, self.identity.config)
            pl_module.contents_changed(changed_contents(saved, self.identity))


def use_new_options(checkpoint: dict[str, Any], saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Let changed keys of ``optimizer``, where allowed, win over those saved with its state."""
    changed = {k for k in now if k.startswith("optimizer.") and now[k] != saved.get(k)}
    for name in (k.partition(".")[2] for k in changed):
        for group in checkpoint["optimizer_states"][0]["param_groups"]:
            group["initial_lr" if name == "lr" else name] = now[f"optimizer.{name}"]
    if "optimizer.lr" in changed:
        for schedule in checkpoint["lr_schedulers"]:
            schedule["base_lrs"] = [now["optimizer.lr"]] * len(schedule["base_lrs"])


def follow_schedule(trainer: L.Trainer) -> None:
    """Set the rate to what the schedule says here: the saved one is that of the run as it was."""
    for config in trainer.lr_scheduler_configs:
        schedule: Any = config.scheduler
        groups = schedule.optimizer.param_groups
        for group, base, share in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group["lr"] = base * share(schedule.last_epoch)


def checkpoint_bytes(pl_module: Any) -> int:
    """Estimate how large a checkpoint is: the weights, and two moments for each that is trained."""
    weights = sum(t.numel() * t.element_size() for t in pl_module.state_dict().values())
    trained = [p for p in pl_module.trained.parameters() if p.requires_grad]
    return weights + 2 * sum(p.numel() * p.element_size() for p in trained)


def require_space(folder: Path, keep: int, size: int) -> None:
    """Raise OutOfDisk where `keep` checkpoints, and one more, do not fit beside what is there."""
    files = max(keep + 1 - len(checkpoints(folder)), 1)
    free = shutil.disk_usage(folder).free
    if free < files * size:
        raise OutOfDisk(
            f"paths.output: expected {files * size / 1e9:.3g} GB for {files} checkpoints; found "
            f"{free / 1e9:.3g} GB free at {folder}. Free some space, or set another paths.output."
        )


def not_written(path: Path, failure: Exception | None) -> InvariantError:
    """Return the error for a checkpoint that could not be written, by what was in the way."""
    before = "The same command in this folder then goes on from the checkpoint before it."
    if isinstance(failure, InvariantError):
        return failure
    if failure is None:
        return NotWritten(f"paths.output: expected {path}; found that rank 0 could not write it.")
    if isinstance(failure, OSError) and failure.errno in FULL:
        return OutOfDisk(
            f"paths.output: expected to write {path}; found: {failure}. Free some space. {before}"
        )
    return NotWritten(
        f"paths.output: expected to write {path}; found: {failure}. Make the folder writable, or "
        f"mend its disk. {before}"
    )


def _write_metrics(trainer: L.Trainer, iteration: int, kind: type[Logger]) -> None:
    """Hand the iteration's metrics to the loggers of this kind, which otherwise get them later."""
    for logger in trainer.loggers:
        if isinstance(logger, kind):
            values = {k: float(v) for k, v in trainer.logged_metrics.items() if k != "step"}
            logger.log_metrics(values, step=iteration)
