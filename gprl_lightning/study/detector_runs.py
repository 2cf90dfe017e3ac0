"""The monitors as detectors on real runs, healthy and lossy by their gold.

``detectors.runs`` names finished runs or grids of them (`grid=detector_runs` makes some). What a
monitor would have said is worked out from what each run logged. Writes ``runs.csv``, ``roc.csv``
and ``roc.png``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gprl_lightning.config import Config
from gprl_lightning.core.drift import DriftSettings
from gprl_lightning.models.pretrained_preference import load_preference_model
from gprl_lightning.study.curves import smoothed
from gprl_lightning.study.detector_roc import Trace, area, detect, over_clusters, roc
from gprl_lightning.study.detectors import DETECTORS, RIVALS, Watch, disagreement
from gprl_lightning.study.intervals import Array, exact_share
from gprl_lightning.study.recorded import recorded_evidence
from gprl_lightning.study.runs import is_grid
from gprl_lightning.study.streams import LOST
from gprl_lightning.study.tables import write_table
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.grid_results import SUMMARY_FILE
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.report import print_table

Row = dict[str, Any]
Label = Literal["healthy", "lossy", "unclear"]
STEADY = 0.05  # of win rate: a run that never falls so far below its best is healthy
ENOUGH = 30  # runs of either kind; fewer are shown, and said to be few


@dataclass(frozen=True)
class Replayed:
    """A finished run as its monitors would have seen it.

    Attributes:
        run: its folder's name.
        cluster: its seed: runs of one seed share pairs and preference models.
        label: by its gold.
        limit: the step at which a lossy run's gold is lost.
        watches: by detector.
    """

    run: str
    cluster: str
    label: Label
    limit: int | None
    watches: Mapping[str, Watch]


def read_runs(config: Config, settings: DriftSettings) -> list[Replayed]:
    """Replay the runs of ``detectors.runs`` for every detector.

    Raises:
        ConfigError: a run lacks something.
    """
    options = config.detectors
    ensemble = [load_preference_model(path).eval() for path in options.ensemble]
    detectors = [*DETECTORS, *RIVALS, *([disagreement] if ensemble else [])]
    found = []
    for run in finished(map(Path, options.runs)):
        evidence = recorded_evidence(run, ensemble)
        columns = read_metrics(run / "metrics.csv")
        iterations, gold = (np.array(v, float) for v in columns[metrics.EVAL_WIN_RATE])
        label, place = judge_gold(gold)
        steps = columns[metrics.KL][0]
        limit = None if place is None else int(np.searchsorted(steps, iterations[place]))
        watches = {d.__name__: d(evidence, settings) for d in detectors}
        found.append(Replayed(run.name, f"seed {_seed(run)}", label, limit, watches))
    return found


def finished(folders: Any) -> list[Path]:
    """Return the runs in folders of runs and of grids."""
    runs: list[Path] = []
    for folder in folders:
        inside = sorted(file.parent for file in folder.glob(f"*/{SUMMARY_FILE}"))
        runs += inside if is_grid(folder) else [folder]
    return runs


def judge_gold(gold: Array) -> tuple[Label, int | None]:
    """Call a run by its smoothed gold: lossy, with the evaluation at which it first is ten points
    under its best so far; healthy, if it never is five; else unclear, and left out."""
    smooth = smoothed(gold)
    fall = np.maximum.accumulate(smooth) - smooth
    if fall.max() >= LOST:
        return "lossy", int(np.flatnonzero(fall >= LOST)[0])
    return ("healthy" if fall.max() < STEADY else "unclear"), None


def traces_of(runs: Sequence[Replayed], detector: str) -> list[Trace]:
    """Return a detector's statistic over all runs that are healthy or lossy."""
    return [
        Trace(run.cluster, run.watches[detector].statistic.numpy(), run.limit)
        for run in runs
        if run.label != "unclear"
    ]


def run_rows(runs: Sequence[Replayed]) -> list[Row]:
    """Return one row per run and detector: when its own threshold would have alarmed."""
    rows = []
    for run in runs:
        for name, watch in run.watches.items():
            first = watch.first_alarm()
            row = {"run": run.run, "cluster": run.cluster, "label": run.label, "detector": name}
            row |= {"lost_at": None if run.limit is None else run.limit + 1}
            rows.append(row | {"first_alarm": None if first is None else first + 1})
    return rows


def roc_rows(runs: Sequence[Replayed], share: float) -> list[Row]:
    """Return one row per detector: by thresholds of other clusters, and by its own on healthy
    runs."""
    rows = []
    for name in runs[0].watches:
        traces = traces_of(runs, name)
        found, ranked = detect(traces, share), over_clusters(traces, area)
        in_time = over_clusters(traces, lambda chosen: detect(chosen, share).in_time)
        row: Row = {"detector": name, "healthy": found.healthy, "lossy": found.lossy}
        row |= {"area": ranked.mean, "area low": ranked.low, "area high": ranked.high}
        row |= {"in time": found.in_time, "in time low": in_time.low, "in time high": in_time.high}
        row |= {"false alarms": found.false_alarms, "lead": found.lead}
        own = [r.watches[name] for r in runs if r.label == "healthy"]
        if own and np.isfinite(own[0].threshold):
            alarmed = exact_share(sum(bool(w.active.any()) for w in own), len(own))
            row |= {"own false alarms": alarmed.mean}
            row |= {"own false alarms low": alarmed.low, "own false alarms high": alarmed.high}
        rows.append(row)
    return rows


def write_runs(folder: Path, runs: Sequence[Replayed], share: float) -> dict[str, Path]:
    """Write and print what the detectors make of real runs. Return the files by name."""
    rows = roc_rows(runs, share)
    write_table(run_rows(runs), folder / "runs.csv")
    write_table(rows, folder / "roc.csv")
    _figure(folder / "roc.png", runs, rows)
    counts = f"{rows[0]['healthy']} healthy and {rows[0]['lossy']} lossy runs"
    few = "" if min(rows[0]["healthy"], rows[0]["lossy"]) >= ENOUGH else f": fewer than {ENOUGH}"
    print_table([(row["detector"], _line(row, share)) for row in rows], counts + few)
    return {name: folder / name for name in ("runs.csv", "roc.csv", "roc.png")}


def _line(row: Row, share: float) -> str:
    own = ""
    if "own false alarms" in row:
        own = (
            f"; its own threshold alarms in {row['own false alarms']:.0%} of healthy runs "
            f"({row['own false alarms low']:.0%} – {row['own false alarms high']:.0%})"
        )
    return (
        f"area {row['area']:.2f} ({row['area low']:.2f} – {row['area high']:.2f}); set to "
        f"{share:.0%} on other seeds: {row['false alarms']:.0%} false alarms, "
        f"{row['in time']:.0%} in time{own}"
    )


def _figure(file: Path, runs: Sequence[Replayed], rows: Sequence[Row]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panel = plt.subplots(figsize=(8.5, 5), layout="constrained")
    for row in rows:
        false, found = roc(traces_of(runs, row["detector"]))
        label = f"{row['detector'].replace('_', ' ')}: {row['area']:.2f}"
        panel.step(false, found, where="post", label=label)
    panel.plot([0, 1], [0, 1], color="grey", ls=":", lw=1)
    panel.set(
        xlabel="healthy runs with a false alarm", ylabel="lossy runs with an alarm before the loss"
    )
    panel.set_title(f"{rows[0]['healthy']} healthy and {rows[0]['lossy']} lossy runs")
    figure.legend(title="area under the curve", fontsize=8, loc="outside right upper")
    panel.grid(alpha=0.3)
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _seed(run: Path) -> int:
    return int(json.loads((run / SUMMARY_FILE).read_text(encoding="utf8"))["seed"])
