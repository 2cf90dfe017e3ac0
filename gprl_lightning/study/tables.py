"""The study's tables: arms, comparisons and curves, as rows that a CSV file and the page share."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gprl_lightning.study.claims import name_of
from gprl_lightning.study.comparison import Arms, Compared, gold_summary, over_seeds
from gprl_lightning.study.intervals import Interval, exact_share
from gprl_lightning.study.runs import Run
from gprl_lightning.study.verdicts import Paired
from gprl_lightning.tracking import metrics

SUMMARY = {
    "gain": "gain over the start",
    "final": "gold at the horizon",
    "peak": "peak gold",
    "drop": "worst drop",
    "proxy_choice": "gold where the proxy is best",
    "area": "mean gold",
}
CURVES = (
    metrics.EVAL_WIN_RATE,
    metrics.EVAL_WIN_RATE_EVEN,
    metrics.EVAL_WIN_RATE_ODD,
    metrics.EVAL_PROXY_WIN_RATE,
    metrics.EVAL_LENGTH_CONTROLLED,
    metrics.EVAL_KL,
    metrics.EVAL_RESPONSE_LENGTH,
    metrics.EVAL_DISTINCT_BIGRAMS,
)
Row = dict[str, Any]


def gold_axes(runs: Sequence[Run]) -> list[str]:
    """Return the metrics of the gold's axes, in the order of the log."""
    prefix = metrics.EVAL_GOLD + "/"
    return [c for c in dict.fromkeys(c for r in runs for c in r.columns) if c.startswith(prefix)]


def last(run: Run, metric: str) -> float:
    values = run.values(metric)[1]
    return float(values[-1]) if len(values) else float("nan")


def arm_rows(arms: Arms) -> list[Row]:
    """Return one row per arm: gold in numbers, and where the policy and the controller ended."""
    rows = []
    for arm, by_seed in arms.items():
        runs = list(by_seed.values())
        row: Row = {"arm": name_of(arm), "seeds": len(runs)}
        summaries = [gold_summary(run) for run in runs]
        for field, label in SUMMARY.items():
            values = iter([getattr(s, field) for s in summaries])
            row |= _cells(label, over_seeds(runs, lambda _, v=values: next(v)))
        collapsed = int(sum(s.collapsed for s in summaries))
        row |= _cells("collapse rate", exact_share(collapsed, len(runs)))
        for label, metric in (
            ("proxy final", metrics.EVAL_PROXY_WIN_RATE),
            ("length-controlled gold final", metrics.EVAL_LENGTH_CONTROLLED),
            ("KL final", metrics.EVAL_KL),
            ("length final", metrics.EVAL_RESPONSE_LENGTH),
            ("distinct bigrams final", metrics.EVAL_DISTINCT_BIGRAMS),
            ("β final", metrics.DRIFT_KL_COEF),
        ):
            row |= _cells(label, over_seeds(runs, lambda r, m=metric: last(r, m)))
        row |= _cells("active steps", over_seeds(runs, _active))
        row |= _cells("axis correlation, first ten", over_seeds(runs, _correlation))
        rows.append(row)
    return rows


def _active(run: Run) -> float:
    """Iterations in which the drift stood above its threshold; NaN without a monitor."""
    values = run.values(metrics.DRIFT_ACTIVE)[1]
    return float(values.sum()) if len(values) else float("nan")


def _correlation(run: Run) -> float:
    """Between axes of the preference model, over the first ten iterations; NaN for one axis."""
    one_axis = metrics.per_axis(metrics.AXIS_SCORE_STD, 1) not in run.columns
    return float("nan") if one_axis else float(run.values(metrics.AXIS_CORRELATION)[1][:10].mean())


def comparison_rows(compared: Sequence[Compared]) -> list[Row]:
    """Return one row per comparison; differences are of the gold win rate, in points
    (hundredths)."""
    rows = []
    for c in compared:
        row: Row = {
            "claim": c.claim.says,
            "arm": name_of(c.claim.arm),
            "against": name_of(c.claim.against),
            "seeds": " ".join(map(str, c.seeds)),
        }
        row |= _paired("frontier", c.frontier) | _paired("horizon", c.horizon)
        for name, paired in c.stops.items():
            row |= _paired(name, paired)
        rows.append(row | {"better stop": c.stop, "paper, points": c.claim.paper})
    return rows


def _paired(label: str, paired: Paired) -> Row:
    """A difference's cells: interval, verdict, p of the sign flips, and what could be found."""
    found = paired.interval
    points = [100 * value for value in (found.mean, found.low, found.high)]
    row = _cells(label, Interval(*points)) | {f"{label} verdict": paired.verdict}
    row[f"{label} sign-flip p"] = _rounded(paired.sign_flip)
    return row | {f"{label} detectable": _rounded(100 * paired.detectable)}


def curve_rows(arms: Arms) -> list[Row]:
    """Return one row per run and evaluation: what the figures are drawn from."""
    rows = []
    for arm, by_seed in arms.items():
        for seed, run in by_seed.items():
            columns = {m: run.values(m)[1] for m in (*CURVES, *gold_axes([run]))}
            for place, iteration in enumerate(run.values(metrics.EVAL_WIN_RATE)[0]):
                point = {m: values[place] for m, values in columns.items() if len(values)}
                rows.append({"arm": arm, "seed": seed, "iteration": int(iteration)} | point)
    return rows


def _cells(label: str, interval: Interval) -> Row:
    named = {"": interval.mean, " low": interval.low, " high": interval.high}
    return {f"{label}{suffix}": _rounded(value) for suffix, value in named.items()}


def _rounded(value: float) -> float | str:
    return "" if np.isnan(value) else round(value, 4)


def write_table(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="", encoding="utf8") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)
