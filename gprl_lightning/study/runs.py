"""The finished runs of a grid's folder, each with its arm, its seed and what it measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from gprl_lightning.config.judging import GOLD
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.grid_results import SUMMARY_FILE, is_setting
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.run_folder import judge_of

Array = NDArray[np.float64]
ARM_KEYS = ("ablation", "algorithm")  # an arm goes by the bare word of these


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        arm: what sets it apart from the grid's other runs but for the seed, such as ``grpo_bt``.
        seed: runs of equal seed are pairs: same prompts, same random numbers, same pairs to learn
            from.
        columns: of its ``metrics.csv``: (iterations, values) by metric.
        summary: of its ``summary.json``.
    """

    arm: str
    seed: int
    columns: dict[str, tuple[list[int], list[float]]]
    summary: dict[str, Any]

    def values(self, metric: str) -> tuple[Array, Array]:
        """Return (iterations, values) of a metric; empty where it was not measured."""
        steps, values = self.columns.get(metric, ([], []))
        return np.asarray(steps, float), np.asarray(values, float)

    def halves(self) -> tuple[Array, Array] | None:
        """Return the gold win rate of the held-out prompts at even places, and of those at odd
        ones; None of a run that logged none."""
        one, other = (
            self.values(metric)[1]
            for metric in (metrics.EVAL_WIN_RATE_EVEN, metrics.EVAL_WIN_RATE_ODD)
        )
        return (one, other) if len(one) and len(other) else None

    def distance(self) -> Array:
        """Return √KL to the starting policy at each evaluation, the KL of whole responses, in
        √nats.

        The KL is a mean over samples: where it comes out below 0, the distance is 0.
        """
        return np.sqrt(np.maximum(self.values(metrics.EVAL_KL)[1], 0))


def is_grid(folder: Path) -> bool:
    """Return True if this is a grid's folder, and not a run's."""
    return not (folder / "metrics.csv").exists() and any(folder.glob(f"*/{SUMMARY_FILE}"))


def read_grid(folder: Path) -> list[Run]:
    """Return the finished runs, by arm in the order of the grid, then by seed.

    Raises:
        ValueError: a run has no held-out evaluation with the KL of whole responses, or another
            judge than the gold.
    """
    runs = [_read(job, arm) for job, arm in _arms(folder).items()]
    order = _order(folder)
    place = {run.arm: order.get(run.arm.partition(" ")[0], len(order)) for run in runs}
    return sorted(runs, key=lambda r: (place[r.arm], r.arm, r.seed))


def job_folders(folder: Path) -> dict[str, Path]:
    """Return a finished run's folder for each arm: one of its seeds."""
    return {arm: job for job, arm in _arms(folder).items()}


def _arms(folder: Path) -> dict[Path, str]:
    """The arm of each finished run, by its folder."""
    jobs = sorted(file.parent for file in folder.glob(f"*/{SUMMARY_FILE}"))
    overrides = {job: _overrides(job) for job in jobs}
    shared = set.intersection(*(set(own) for own in overrides.values())) if jobs else set()
    return {job: _arm(own, shared) for job, own in overrides.items()}


def _read(job: Path, arm: str) -> Run:
    summary = json.loads((job / SUMMARY_FILE).read_text(encoding="utf8"))
    columns = read_metrics(job / "metrics.csv")
    for metric in (metrics.EVAL_WIN_RATE, metrics.EVAL_KL):
        if metric not in columns:
            raise ValueError(
                f"{job}: expected {metric} in its metrics.csv, found none. Run it again with "
                "this version and with evaluation.judge set."
            )
    judge = judge_of(job)
    if judge and not judge.startswith(f"{GOLD}:"):
        raise ValueError(
            f"{job}: expected runs judged by the sandbox's gold, of which this report speaks; "
            f"found the judge {judge}. Report such runs one by one, or run them with "
            "evaluation.judge=sandbox_gold."
        )
    return Run(arm, int(summary["seed"]), columns, summary)


def _overrides(job: Path) -> list[str]:
    return list(yaml.safe_load((job / ".hydra" / "overrides.yaml").read_text(encoding="utf8")))


def _arm(overrides: list[str], shared: set[str]) -> str:
    """The override that names the arm, and any others that differ, but for the seed."""
    own = [o for o in overrides if o.startswith(f"{ARM_KEYS[0]}=") or o not in shared]
    names = [_word(o) for o in own if is_setting(o) and not o.startswith("seed=")]
    return " ".join(names) or "all"


def _word(override: str) -> str:
    key, _, value = override.partition("=")
    return value if key in ARM_KEYS else override


def _order(folder: Path) -> dict[str, int]:
    """The arms' places in the grid that was asked for last."""
    file = folder / "multirun.yaml"
    if not file.exists():
        return {}
    cfg = yaml.safe_load(file.read_text(encoding="utf8"))
    params = cfg.get("hydra", {}).get("sweeper", {}).get("params", {})
    arms = [str(params.get(key, "")).replace(" ", "").split(",") for key in ARM_KEYS]
    return {arm: place for words in arms for place, arm in enumerate(words)}
