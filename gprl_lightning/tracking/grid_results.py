"""The jobs of a grid, known by their folders, and the table over seeds at its end.

A job is judged by what it left: ``summary.json`` if it finished, ``error.txt`` if it did not. Its
folder's name tells its overrides, so the same command finds its jobs again.
`hydra_plugins.gprl_sweeper` runs them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import statistics
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from gprl_lightning.errors import GridFailed
from gprl_lightning.tracking import metrics

SUMMARY_FILE = "summary.json"  # {"final": {metric: number}, ...}; written last by a run
COMPOSED_FILE = ".hydra/config.yaml"  # of the last call that began in the folder
FINISHED_FILE = ".hydra/finished.yaml"  # a copy, of the last call that ended well
COST_FILE = ".hydra/cpu_seconds"  # of the process, from the job's beginning to its end
ERROR_FILE = "error.txt"
TABLE_FILE = "grid.csv"
# Where a run is told of and how fast it goes: no arm of a grid differs by these.
NO_SETTINGS = ("logger", "paths", "hydra", "threads", "keep_freed_memory", "checkpoint_every")
MAX_NAME = 180  # bytes of a folder's name; file systems allow 255
# On the console; the CSV has all.
COLUMNS = (
    metrics.EVAL_WIN_RATE,
    metrics.EVAL_LENGTH_CONTROLLED,
    metrics.EVAL_PROXY_WIN_RATE,
    metrics.EVAL_RESPONSE_LENGTH,
    metrics.KL,
)
SPREAD = "± half of the 95 % interval of the mean over seeds (Student's t); none for one seed"
# Student's t, 97.5 % quantile, by degrees of freedom 1, 2, …; the normal's beyond.
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One point of the grid."""

    overrides: tuple[str, ...]
    folder: Path
    config: str  # composed, as YAML

    @property
    def finished(self) -> bool:
        """Done by an earlier call, with this very configuration."""
        finished = self.folder / FINISHED_FILE
        return (
            (self.folder / SUMMARY_FILE).exists()
            and finished.exists()
            and finished.read_text(encoding="utf8") == self.config
        )

    def record(self, error: BaseException) -> None:
        """Write down why the job failed: one line, then where."""
        message = str(error).strip().partition("\n")[0]
        where = "".join(traceback.format_exception(error))
        self.folder.mkdir(parents=True, exist_ok=True)
        text = f"{type(error).__name__}: {message}\n\n{where}"
        (self.folder / ERROR_FILE).write_text(text, encoding="utf8")

    @property
    def metrics(self) -> dict[str, float]:
        summary = json.loads((self.folder / SUMMARY_FILE).read_text(encoding="utf8"))
        return {k: v for k, v in summary["final"].items() if isinstance(v, (int, float))}

    @property
    def failure(self) -> str:
        """What went wrong, in one line."""
        file = self.folder / ERROR_FILE
        if not file.exists():
            return "ended without a summary"
        return file.read_text(encoding="utf8").partition("\n")[0]


def conclude(jobs: Sequence[Job], folder: Path) -> dict[str, dict[str, float]]:
    """Print the table of a grid and write it to ``grid.csv`` in its folder.

    Raises:
        GridFailed: some jobs have not finished.
    """
    done = [job for job in jobs if job.finished]
    rows = summarize([(arm(job, jobs), job.metrics) for job in done])
    if rows:
        write_csv(rows, folder / TABLE_FILE)
        print(f"\n{format_table(rows)}\n{SPREAD}\n\n{folder / TABLE_FILE}")
    failed = [job for job in jobs if job not in done]
    if failed:
        lines = [
            f"  {arm(job, jobs, ())}: {job.failure}\n    {job.folder / ERROR_FILE}"
            for job in failed
        ]
        raise GridFailed(
            f"{len(failed)} of {len(jobs)} jobs failed:\n" + "\n".join(lines) + "\n"
            "The same command runs them again, and skips the finished ones."
        )
    return rows


def folder_name(overrides: str) -> str:
    """Return a job's folder by its overrides: without slashes, and short enough for a file
    system."""
    name = re.sub(r"[^\w.,=+@-]+", "_", overrides) or "default"
    if len(name.encode()) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: MAX_NAME - 9].decode(errors="ignore") + "-" + digest


def is_setting(override: str) -> bool:
    """Return False for an override that changes no number of a run, such as ``logger=csv``."""
    return re.split(r"[./=]", override.lstrip("+~"), maxsplit=1)[0] not in NO_SETTINGS


def sweep_name(overrides: Sequence[str]) -> str:
    """Resolve ``${sweep_name:…}`` in conf/: what tells a sweep by these overrides from others,
    but for its seeds: more of them join the earlier ones."""
    own = sorted(str(o) for o in overrides if not str(o).startswith(("seed=", "paths.")))
    return hashlib.sha256("\n".join(own).encode()).hexdigest()[:8]


def arm(job: Job, jobs: Sequence[Job], pooled: Sequence[str] = ("seed",)) -> str:
    """Return what sets this job apart from the others of the grid, but for the keys that are
    pooled."""
    shared = set.intersection(*(set(other.overrides) for other in jobs))
    own = [o for o in job.overrides if o not in shared and o.partition("=")[0] not in pooled]
    own = [override for override in own if is_setting(override)]
    return " ".join(own) or "all"


def summarize(
    results: Sequence[tuple[str, Mapping[str, float]]],
) -> dict[str, dict[str, float]]:
    """Mean over seeds of each arm's final metrics, with the half-width of its 95 % interval.

    Args:
        results: per job, its arm and its final metrics.

    Returns:
        By arm: ``jobs``, and for each metric ``name`` and ``name ±``: t · s / √n (Student), NaN for
        one job.
    """
    rows: dict[str, dict[str, float]] = {}
    for label in dict.fromkeys(label for label, _ in results):
        runs = [values for name, values in results if name == label]
        row: dict[str, float] = {"jobs": len(runs)}
        for metric in dict.fromkeys(key for run in runs for key in run):
            values = [run[metric] for run in runs if metric in run]
            row[metric] = statistics.fmean(values)
            row[f"{metric} ±"] = half_width(values)
        rows[label] = row
    return rows


def half_width(values: Sequence[float]) -> float:
    """Return half of the 95 % confidence interval of the mean; NaN for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan
    quantile = STUDENT[n - 2] if n - 2 < len(STUDENT) else 1.96
    return quantile * statistics.stdev(values) / math.sqrt(n)


def write_csv(rows: Mapping[str, Mapping[str, float]], file: Path) -> None:
    """Write one row per arm; every metric with its ± column."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    with file.open("w", newline="", encoding="utf8") as stream:
        writer = csv.DictWriter(stream, ["arm", *names])
        writer.writeheader()
        writer.writerows({"arm": label, **row} for label, row in rows.items())


def format_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table for the console: one line per arm, aligned."""
    shown = [name for name in COLUMNS if any(name in row for row in rows.values())]
    lines = [["arm", "jobs", *shown]]
    for label, row in rows.items():
        lines.append([label, str(int(row["jobs"])), *(_cell(row, name) for name in shown)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(row: Mapping[str, float], name: str) -> str:
    if name not in row:
        return "-"
    spread = row[f"{name} ±"]
    return f"{row[name]:.4g}" + ("" if math.isnan(spread) else f" ± {spread:.2g}")


def sibling_job(key: str, value: str) -> str:
    """Resolve ``${sibling_job:ablation,none}`` in conf/: the job's folder that differs in one
    override.

    For an arm that takes something from another arm's finished run, of the same seed.
    """
    if not HydraConfig.initialized():
        return f"{key}={value}"
    hydra = HydraConfig.get()
    own = hydra.job.override_dirname.split(",")
    other = [f"{key}={value}" if o.startswith(f"{key}=") else o for o in own]
    return str(Path(hydra.sweep.dir) / folder_name(",".join(other)))


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
OmegaConf.register_new_resolver("sibling_job", sibling_job, replace=True)
