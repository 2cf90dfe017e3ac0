"""``metrics.csv``: one row per iteration, written as the run goes, and kept whole by a resume.

And what surrounds a job for all of its loggers: told what the run is made of, closed at its end.
"""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf

from gprl_lightning.errors import ResumeRefused
from gprl_lightning.runtime.disk import or_warn
from gprl_lightning.tracking.metrics import ITERATION
from gprl_lightning.tracking.metrics_file import read_rows_of
from gprl_lightning.tracking.provenance import provenance
from gprl_lightning.tracking.wandb_logger import GPRLWandbLogger

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
TERMINATED = 143  # 128 + SIGTERM, as a shell reports it


class MetricsCSV(Logger):
    """A wide CSV file, one row per iteration, empty cells where a metric was not measured.

    Lightning's own CSVLogger deletes the file when a run is resumed into its folder; this one goes
    on where the checkpoint stood: rows of later iterations, which will be run again, are dropped.

    Args:
        folder: the run's folder; the file is ``metrics.csv`` in it.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.file = Path(folder) / "metrics.csv"
        self.columns: list[str] = [ITERATION]
        self.rows: list[dict[str, Any]] = []
        self.whole = True  # the file holds these rows, and no other

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.file.parent)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Do nothing: the configuration is saved as ``config.yaml``, not here."""

    def continue_from(self, iteration: int, rows: int | None = None) -> None:
        """Keep the rows up to `iteration` of an earlier part of this run.

        Nothing on the disk changes before the next row is logged.

        Args:
            rows: how many there must be, as the checkpoint says; None: as many as there are.

        Raises:
            ResumeRefused: there are fewer.
        """
        columns, found = read_rows_of(self.file)
        kept = [row for row in found if int(float(row[ITERATION])) <= iteration]
        if rows is not None and len(kept) < rows:
            raise ResumeRefused(
                f"ckpt_path: expected {rows} rows up to iteration {iteration} in {self.file}, as "
                f"when the checkpoint was written; found {len(kept)}. Put the file back, or go on "
                "without them: 'resume.allow=[metrics]'"
            )
        self.columns, self.rows = columns, kept
        self.whole = False

    def rows_on_disk(self, iteration: int) -> int:
        """Return how many rows up to `iteration` the file holds."""
        return sum(int(row[ITERATION]) <= iteration for row in self.rows) if self.whole else 0

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write a row, or add to the last one. A disk that takes none is warned of, and the row is
        written with a later one."""
        row: dict[str, Any] = {k: v for k, v in metrics.items() if k != "epoch"}
        row[ITERATION] = int(row.get(ITERATION, step))
        new_columns = [k for k in row if k not in self.columns]
        merge = bool(self.rows) and int(float(self.rows[-1][ITERATION])) == row[ITERATION]
        if merge and self.whole and row.items() <= self.rows[-1].items():
            return  # a checkpoint has had them written: no need to write the whole file again
        if merge:
            self.rows[-1].update(row)
        else:
            self.rows.append(row)
        self.columns += new_columns
        appended = self.whole and not (new_columns or merge) and self.file.exists()
        self.whole = False
        with or_warn(self.file, "its rows are kept for later"):
            self._append(row) if appended else self._rewrite()
            self.whole = True

    def _append(self, row: dict[str, Any]) -> None:
        with self.file.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _rewrite(self) -> None:
        partial = self.file.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
        partial.replace(self.file)


@contextmanager
def recorded_by(loggers: Sequence[Logger], cfg: DictConfig) -> Iterator[None]:
    """Wrap a job: its loggers get the configuration and the provenance; W&B's run ends with it.

    A SIGTERM that breaks off Lightning's fit ends the process with 143, where Lightning would have
    it end with 0, as if the job were done.
    """
    code = 1
    made_of = {**OmegaConf.to_container(cfg, resolve=True), "provenance": provenance()}  # type: ignore
    try:
        for logger in loggers:
            logger.log_hyperparams(made_of)
        yield
        code = 0
    except SystemExit as error:
        if isinstance(error, SIGTERMException):
            error.code = TERMINATED
        elif isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes a 1 of it
            error.code = INTERRUPTED
        code = error.code if isinstance(error.code, int) else 1
        raise
    finally:
        for logger in loggers:
            if isinstance(logger, GPRLWandbLogger):
                logger.close(code)
