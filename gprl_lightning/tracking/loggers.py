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

from gprl_lightning.tracking.metrics import ITERATION
from gprl_lightning.tracking.provenance import provenance
from gprl_lightning.tracking.wandb_logger import GPRLWandbLogger

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
        """The configuration is saved as ``config.yaml``, not here."""

    @rank_zero_only
    def continue_from(self, iteration: int) -> None:
        """Keep the rows up to `iteration` of an earlier part of this run."""
        if self.file.exists():
            with self.file.open(newline="") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or self.columns)
                whole = (r for r in reader if None not in r.values())  # a kill may tear the last
                self.rows = [r for r in whole if float(r[ITERATION]) <= iteration]
            self._rewrite()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row: dict[str, Any] = {k: v for k, v in metrics.items() if k != "epoch"}
        row[ITERATION] = int(row.get(ITERATION, step))
        new_columns = [k for k in row if k not in self.columns]
        merge = bool(self.rows) and int(self.rows[-1][ITERATION]) == row[ITERATION]
        if merge:
            self.rows[-1].update(row)
        else:
            self.rows.append(row)
        self.columns += new_columns
        if new_columns or merge or not self.file.exists():
            self._rewrite()
        else:
            with self.file.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)

    def _rewrite(self) -> None:
        partial = self.file.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
        partial.replace(self.file)


def read_metrics(file: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """The columns of a ``metrics.csv``: for each metric its (iterations, values), gaps left out."""
    out: dict[str, tuple[list[int], list[float]]] = {}
    with Path(file).open(newline="") as lines:
        for row in csv.DictReader(lines):
            for name, cell in row.items():
                if cell not in ("", None) and name != ITERATION:
                    steps, values = out.setdefault(name, ([], []))
                    steps.append(int(row[ITERATION]))
                    values.append(float(cell))
    return out


@contextmanager
def recorded_by(loggers: Sequence[Logger], cfg: DictConfig) -> Iterator[None]:
    """Around a job: its loggers get the configuration and the provenance; W&B's run ends with it.

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
        code = error.code if isinstance(error.code, int) else 1
        raise
    finally:
        for logger in loggers:
            if isinstance(logger, GPRLWandbLogger):
                logger.close(code)
