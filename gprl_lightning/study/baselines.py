"""The runs of ``grid=baselines`` in a small file, and what each method comes to beside another.

The file holds the evaluations of every run and what the run cost, so that the page and its picture
can be drawn again without the runs. Ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gprl_lightning.study.claims import BASELINE, Claim, name_of
from gprl_lightning.study.comparison import Arms, Compared, by_arm, compare
from gprl_lightning.study.holm import holm
from gprl_lightning.study.intervals import Interval
from gprl_lightning.study.runs import Run, job_folders, read_grid
from gprl_lightning.study.tables import CURVES
from gprl_lightning.tracking import metrics

KEPT = tuple(name for name in CURVES if name != metrics.EVAL_DISTINCT_BIGRAMS)
DIGITS = 5
GPRL = "gprl"
RIVALS = (GPRL, BASELINE)  # what every other method is compared with
ON_PAIRS = "PairObjective"  # the last part of an objective's _target_


@dataclass(frozen=True)
class Budget:
    """What a whole run of a method costs, over all its iterations.

    Attributes:
        samples: responses sampled and scored; 0 where pairs stand in a file.
        learned: responses in the optimiser's steps: two of a group for methods on pairs.
        updates: optimiser steps.
        on_pairs: whether it learns from pairs of responses.
    """

    samples: int
    learned: int
    updates: int
    on_pairs: bool


def budget_of(config: Mapping[str, Any]) -> Budget:
    """Return what a run with this configuration costs.

    Args:
        config: of the run's ``config.yaml``.
    """
    algorithm, objective = config["algorithm"], config["objective"]
    steps = config["iterations"] * config["data"]["prompts_per_step"]
    size, passes = config["rollout"]["group_size"], algorithm["inner_epochs"]
    on_pairs = str(objective["_target_"]).endswith("." + ON_PAIRS)
    sampled = 0 if objective.get("pairs") == "file" else steps * size * algorithm["oversample"]
    learned = steps * (2 if on_pairs else size) * passes
    updates = config["iterations"] * passes * algorithm["minibatches"]
    return Budget(sampled, learned, updates, on_pairs)


def record_of(folder: Path) -> dict[str, Any]:
    """Return the finished runs of a grid's folder as plain values, in the order of the grid.

    Raises:
        ValueError: no finished run, or one without a held-out evaluation.
    """
    jobs = {(run.arm, run.seed): run for run in read_grid(folder)}
    if not jobs:
        raise ValueError(f"{folder}: expected finished runs of a grid; found none.")
    budgets = {arm: budget_of(_config(job)) for arm, job in job_folders(folder).items()}
    runs = [
        {
            "arm": run.arm,
            "seed": run.seed,
            "iterations": run.values(metrics.EVAL_WIN_RATE)[0].astype(int).tolist(),
            "columns": {m: _short(run.values(m)[1]) for m in KEPT if m in run.columns},
        }
        for run in jobs.values()
    ]
    first = next(iter(jobs.values())).summary
    return {
        "git_commit": first.get("git_commit"),
        "budgets": {arm: vars(budget) for arm, budget in budgets.items()},
        "runs": runs,
    }


def _config(job: Path) -> dict[str, Any]:
    return yaml.safe_load((job / "config.yaml").read_text(encoding="utf8"))


def _short(values: Any) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def write_record(record: Mapping[str, Any], file: Path) -> None:
    """Write a record, one run a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    runs = ",\n".join(json.dumps(run, separators=(",", ":")) for run in record["runs"])
    head = json.dumps({k: v for k, v in record.items() if k != "runs"})[:-1]
    file.write_text(f'{head}, "runs": [\n{runs}\n]}}\n', encoding="utf8")


def budgets_in(record: Mapping[str, Any]) -> dict[str, Budget]:
    """Return what a run of each arm cost."""
    return {arm: Budget(**budget) for arm, budget in record["budgets"].items()}


def arms_in(record: Mapping[str, Any]) -> tuple[Arms, list[int]]:
    """Return the runs by arm and seed, and the seeds that were left out.

    Only seeds that every arm has finished: all methods are then compared on the same seeds.
    """
    runs = [
        Run(
            arm=run["arm"],
            seed=run["seed"],
            columns={m: (run["iterations"], values) for m, values in run["columns"].items()},
            summary={},
        )
        for run in record["runs"]
    ]
    arms = by_arm(runs)
    every = set.intersection(*(set(by_seed) for by_seed in arms.values()))
    left_out = sorted({run.seed for run in runs} - every)
    return {a: {s: r for s, r in by.items() if s in every} for a, by in arms.items()}, left_out


@dataclass(frozen=True)
class Beside:
    """One method beside another.

    Attributes:
        compared: by the rules of the laboratory.
        chance: p of Student's test of the frontier's difference, by Holm over the family.
    """

    compared: Compared
    chance: float


def beside(arms: Arms, against: str) -> dict[str, Beside]:
    """Compare every other arm with ``against``: one family of comparisons, adjusted after Holm."""
    found = {
        arm: compare(arms, Claim(arm, against, f"{name_of(arm)} beats {name_of(against)}"))
        for arm in arms
        if arm != against
    }
    chances = holm([c.frontier.student for c in found.values()])
    return {arm: Beside(c, chance) for (arm, c), chance in zip(found.items(), chances, strict=True)}


def same_runs(arms: Arms) -> list[tuple[str, str]]:
    """Return pairs of arms whose runs are the same to the last digit that was kept."""
    names = list(arms)
    return [
        (one, other)
        for place, one in enumerate(names)
        for other in names[place + 1 :]
        if all(arms[one][s].columns == arms[other][s].columns for s in arms[one])
    ]


def detectable(found: Sequence[Beside]) -> Interval:
    """Return the median, the least and the largest difference that the seeds could have shown."""
    least = np.array([b.compared.frontier.detectable for b in found])
    return Interval(float(np.median(least)), float(least.min()), float(least.max()))
