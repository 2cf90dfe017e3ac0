"""The sweeper of this project; Hydra takes plugins from the namespace ``hydra_plugins`` only.

A cartesian product of jobs, like Hydra's basic sweeper and by any launcher, but jobs are isolated:
a failure ends its own job, is listed at the end, and the same command runs it again and skips what
is finished. `FileSweeper` takes its points from a W&B sweep file instead.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf, open_dict

from gprl_lightning.cli.sweep_file import quoted, read_sweep
from gprl_lightning.tracking.grid_results import Job, conclude

log = logging.getLogger(__name__)


class GridSweeper(BasicSweeper):
    """Runs what is not finished, and ends with a table and the list of failures."""

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None and self.launcher is not None and self.hydra_context
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        folder = self._settled_folder()
        jobs = [self._job(job) for job in self.points(overrides)]
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")

        waiting = [job for job in jobs if not job.finished]
        if len(waiting) < len(jobs):
            log.info(f"{len(jobs) - len(waiting)} of {len(jobs)} jobs are finished: skipped")
        step = self.max_batch_size or len(jobs)
        for start in range(0, len(waiting), step):
            self._launch(waiting[start : start + step], start)
        return conclude(jobs, folder)

    def points(self, overrides: list[Override]) -> list[list[str]]:
        """Return the overrides of each job: the product of all that were given."""
        return self.split_arguments(overrides, None)[0]

    def _settled_folder(self) -> Path:
        """Return the folder of the whole sweep, and have every job keep it.

        A job is composed anew from its own overrides, whose hash would give it another folder.
        """
        assert self.config is not None
        folder = Path(self.config.hydra.sweep.dir)
        with open_dict(self.config):
            self.config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder))}")
        return folder

    def _job(self, overrides: Sequence[str]) -> Job:
        """Compose the job, to know its folder and its configuration (and that it composes)."""
        assert self.config is not None and self.hydra_context is not None
        loader, hydra = self.hydra_context.config_loader, HydraConfig.instance()
        cfg = loader.load_sweep_config(self.config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = 0
        before = hydra.cfg
        hydra.set_config(cfg)
        try:
            folder = Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir
            with open_dict(cfg):
                del cfg["hydra"]
            return Job(tuple(overrides), folder, OmegaConf.to_yaml(cfg))
        finally:
            hydra.cfg = before

    def _launch(self, jobs: Sequence[Job], first: int) -> None:
        """A job's exception is in its `JobReturn`; launchers may raise for killed jobs."""
        assert self.launcher is not None
        try:
            results = self.launcher.launch([job.overrides for job in jobs], initial_job_idx=first)
        except Exception:
            log.exception("the launcher failed; what has finished is kept")
            return
        for job, result in zip(jobs, results, strict=True):
            if result.status == JobStatus.FAILED:
                job.record(result._return_value)


class FileSweeper(GridSweeper):
    """Runs the points of a W&B sweep file, each with what the command line sweeps besides.

    Args:
        max_batch_size: jobs that are launched at once; None: all.
        params: of the grid, as those of `GridSweeper`.
        file: the sweep file.
    """

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None = None, file: str = ""
    ):
        super().__init__(max_batch_size, params)
        self.file = read_sweep(file)

    def sweep(self, arguments: list[str]) -> Any:
        rows = super().sweep(arguments)
        if self.file.metric is not None:
            print(best(rows, *self.file.metric))
        return rows

    def points(self, overrides: list[Override]) -> list[list[str]]:
        pinned = {override.key_or_group for override in overrides}
        given = super().points(overrides)
        return [[*point, *others] for point in self.file.points(pinned) for others in given]


def best(rows: Mapping[str, Mapping[str, float]], metric: str, maximize: bool) -> str:
    """Return a line that names the arm whose mean of `metric` is best."""
    found = {arm: row[metric] for arm, row in rows.items() if metric in row}
    if not found:
        return f"{metric}: no run has it"
    arm = (max if maximize else min)(found, key=lambda name: found[name])
    return f"best {metric}: {found[arm]:.4g}, by {arm}"
