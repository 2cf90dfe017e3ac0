"""One small JSON a run: what the laboratory keeps, and which runs it refuses. Ours."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gprl_lightning.study.laboratory_plan import (
    ACCURACY,
    ARMS,
    BETAS,
    GOLD,
    LOG_GATE_SPREAD,
    TUNED,
    TUNING_SEEDS,
    VERDICT_SEEDS,
)
from gprl_lightning.study.runs import Run
from gprl_lightning.study.stopping import BETA, at_horizon
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.answer_log import TASK, answered_iterations, read_answers
from gprl_lightning.tracking.grid_results import COST_FILE, SUMMARY_FILE
from gprl_lightning.tracking.metrics_file import read_metrics

CURVES = (
    metrics.EVAL_WIN_RATE,
    metrics.EVAL_WIN_RATE_EVEN,
    metrics.EVAL_WIN_RATE_ODD,
    metrics.EVAL_PROXY_WIN_RATE,
    metrics.EVAL_KL,
    metrics.EVAL_RESPONSE_LENGTH,
)
ARM = "ablation=laboratory/"
AXIS_CORRELATION = "axis correlation"
DIGITS = 5
Settings = dict[str, Any]  # dotted keys


@dataclass(frozen=True)
class Label:
    """What a run is: its arm, its seed, and on a tuning seed the β that it tries."""

    arm: str
    seed: int
    beta: float | None = None

    def __str__(self) -> str:
        beta = "" if self.beta is None else f"_beta{self.beta:g}"
        return f"{self.arm}{beta}_seed{self.seed}"

    def check(self) -> None:
        """Raise a ValueError unless the plan has such a run."""
        if self.beta is None:
            known = self.arm in ARMS and self.seed in VERDICT_SEEDS
        else:
            known = self.arm in TUNED.values() and self.seed in TUNING_SEEDS
            known &= self.beta in BETAS
        if not known:
            raise ValueError(
                f"{self}: expected a registered arm on a verdict seed ({VERDICT_SEEDS[0]} to "
                f"{VERDICT_SEEDS[-1]}), or an arm that is tuned, at one of its β "
                f"({', '.join(f'{b:g}' for b in BETAS)}), on a tuning seed ({TUNING_SEEDS[0]} to "
                f"{TUNING_SEEDS[-1]})."
            )


Registered = Callable[[Label], Settings]  # what the run is to be made of


@dataclass(frozen=True)
class Kept:
    """A run as it is kept.

    Attributes:
        label: which run.
        commit: of the code that made it.
        settings: what sets its configuration apart, and what it must not differ in.
        cpu_minutes: of its process, with the preference model if it was trained then.
        measures: what contrasts are made of, by name: gold at the horizon; of a model its accuracy.
        iterations: of its evaluations.
        curves: by metric.
        by_task: gold by the request's task, the mean of the last two evaluations.
        multipliers: of the axes, at the end.
        kl_coef: β at the end; None of a model.
    """

    label: Label
    commit: str
    settings: Settings
    cpu_minutes: float
    measures: dict[str, float]
    iterations: list[int] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)
    by_task: dict[str, float] = field(default_factory=dict)
    multipliers: list[float] = field(default_factory=list)
    kl_coef: float | None = None

    @property
    def run(self) -> Run:
        """As the study's functions take it."""
        columns = {metric: (self.iterations, values) for metric, values in self.curves.items()}
        return Run(self.label.arm, self.label.seed, columns, {})


def label_of(job: Path) -> Label:
    """Return which run a job's folder is of.

    Raises:
        ValueError: not one of the laboratory's.
    """
    overrides = yaml.safe_load((job / ".hydra" / "overrides.yaml").read_text(encoding="utf8"))
    words = [o.removeprefix(ARM) for o in overrides if o.startswith(ARM)]
    seeds = [int(o.removeprefix("seed=")) for o in overrides if o.startswith("seed=")]
    betas = [float(o.removeprefix(BETA)) for o in overrides if o.startswith(BETA)]
    if len(words) != 1 or len(seeds) != 1:
        raise ValueError(f"{job}: expected a job of grid=laboratory, by {ARM}… and seed=….")
    label = Label(words[0], seeds[0], betas[0] if betas else None)
    label.check()
    return label


def keep(job: Path, label: Label, settings: Settings) -> Kept:
    """Return what is kept of a finished job.

    Raises:
        ValueError: it was made by code that is in no commit.
    """
    summary = json.loads((job / SUMMARY_FILE).read_text(encoding="utf8"))
    commit = str(summary.get("git_commit"))
    if commit == "None" or commit.endswith("-dirty"):
        raise ValueError(f"{job}: expected a run of committed code; found git_commit={commit}.")
    cost = round(float((job / COST_FILE).read_text()) / 60, 2)
    common = label, commit, settings, cost
    evaluation = job / "evaluation.json"
    if evaluation.exists():
        return Kept(*common, _model(json.loads(evaluation.read_text(encoding="utf8"))))
    columns = read_metrics(job / "metrics.csv")
    run = Run(label.arm, label.seed, columns, summary)
    return Kept(
        *common,
        measures={GOLD: _short(at_horizon(run))},
        iterations=run.values(metrics.EVAL_WIN_RATE)[0].astype(int).tolist(),
        curves={m: [*map(_short, columns[m][1])] for m in CURVES if m in columns},
        by_task=_by_task(job),
        multipliers=_multipliers(columns),
        kl_coef=_last(columns, metrics.DRIFT_KL_COEF, float(settings[BETA[:-1]])),
    )


def _model(found: Mapping[str, Any]) -> dict[str, float]:
    """Of a preference model: accuracy, the gate's spread over prompts (mean over axes), and how
    far its axes are copies."""
    axes = found["axes"]
    spread = sum(axes["eigenvalue_std"]) / len(axes["eigenvalue_std"])
    return {
        ACCURACY: _short(found["accuracy"]),
        LOG_GATE_SPREAD: _short(math.log(max(spread, 1e-6))),
        AXIS_CORRELATION: _short(axes["mean_absolute_correlation"]),
    }


def _by_task(job: Path) -> dict[str, float]:
    last = answered_iterations(job)[-2:]
    verdicts: dict[str, list[float]] = {}
    for row in (row for iteration in last for row in read_answers(job, iteration)):
        quoted = next(iter(row["verdicts"].values()))
        if quoted is not None and row.get(TASK):
            verdicts.setdefault(row[TASK], []).append(float(quoted))
    return {task: _short(sum(v) / len(v)) for task, v in sorted(verdicts.items())}


def _multipliers(columns: Mapping[str, tuple[list[int], list[float]]]) -> list[float]:
    """m of each axis at the end, in the order of the log."""
    names = [name for name in columns if name.startswith(metrics.AXIS_MULTIPLIER + "/")]
    return [_short(columns[name][1][-1]) for name in names]


def _last(
    columns: Mapping[str, tuple[list[int], list[float]]], metric: str, otherwise: float
) -> float:
    return _short(columns[metric][1][-1]) if metric in columns else otherwise


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def write(kept: Kept, folder: Path) -> Path:
    """Write a run's file, named by its label."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{kept.label}.json"
    lines = [f'"{key}": {json.dumps(value)}' for key, value in asdict(kept).items()]
    file.write_text("{" + ",\n ".join(lines) + "}\n", encoding="utf8")
    return file


def read(folder: Path, registered: Registered) -> list[Kept]:
    """Return every run that was kept, of registered configurations alone.

    Raises:
        ValueError: a file's run is not in the plan, or is made of something else.
    """
    found = [_read(file) for file in sorted(folder.glob("*.json"))]
    for kept in found:
        kept.label.check()
        require_registered(str(kept.label), kept.settings, registered(kept.label))
    lengths = {tuple(kept.iterations) for kept in found if kept.iterations}
    if len(lengths) > 1:
        raise ValueError(f"{folder}: expected evaluations at the same iterations in all runs.")
    return found


def _read(file: Path) -> Kept:
    values = json.loads(file.read_text(encoding="utf8"))
    kept = Kept(**{**values, "label": Label(**values["label"])})
    if file.stem != str(kept.label):
        raise ValueError(f"{file}: expected the run that its name tells; found {kept.label}.")
    return kept


def require_registered(name: str, found: Settings, wanted: Settings) -> None:
    """Raise a ValueError that names the keys in which a run is not what was registered."""
    keys = sorted({k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k)})
    if keys:
        told = ", ".join(f"{k}={found.get(k)} (registered {wanted.get(k)})" for k in keys[:4])
        more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
        raise ValueError(f"{name}: expected the registered configuration; found {told}{more}.")


def by_arm(kept: Iterable[Kept]) -> dict[str, dict[int, Kept]]:
    """Return the runs on verdict seeds by arm, in the plan's order, then by seed."""
    found: dict[str, dict[int, Kept]] = {}
    for one in kept:
        if one.label.beta is None:
            found.setdefault(one.label.arm, {})[one.label.seed] = one
    return {arm: dict(sorted(found[arm].items())) for arm in ARMS if arm in found}
