"""Benchmarks by method, with intervals, beside the paper's figures: Markdown, CSV and a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from gprl_lightning.benchmarks.result import RESULT_FILE
from gprl_lightning.errors import ConfigError

OURS = "measured"
ABSTRACT = "the paper's abstract"
SECOND_HAND = "second-hand"  # quoted by others; the paper's own table is not known to us
# (method, benchmark, figure, value, where it is from): METHOD §4, Llama-3-8B-Instruct.
PAPER = (
    ("GPRL", "alpaca_eval_2", "length_controlled_win_rate", 56.51, ABSTRACT),
    ("GRPO + BT", "alpaca_eval_2", "length_controlled_win_rate", 41.92, SECOND_HAND),
    ("SPPO", "alpaca_eval_2", "length_controlled_win_rate", 42.55, SECOND_HAND),
    ("SimPO", "alpaca_eval_2", "length_controlled_win_rate", 44.70, SECOND_HAND),
    ("GPO", "alpaca_eval_2", "length_controlled_win_rate", 38.98, SECOND_HAND),
    ("DPO", "alpaca_eval_2", "length_controlled_win_rate", 40.30, SECOND_HAND),
    ("GPRL", "mt_bench", "score", 8.33, SECOND_HAND),
)
MARKS = {ABSTRACT: "*", SECOND_HAND: "†"}
WARNED = "‡"


@dataclass(frozen=True)
class Cell:
    """A figure of one method on one benchmark.

    Attributes:
        method: whose it is: a run's name, or the paper's word.
        benchmark, figure: what it is.
        label: the figure's name for people.
        value: the mean over runs.
        low, high: of one run, its own interval; of several, the least and the greatest of them.
        runs: how many.
        source: ``measured``, or where the paper's figure is from.
        warnings: what makes it something else than a published figure.
    """

    method: str
    benchmark: str
    figure: str
    label: str
    value: float
    low: float | None
    high: float | None
    runs: int
    source: str
    warnings: tuple[str, ...] = ()


def read_results(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Return every ``benchmark.json`` in or under the folders.

    Raises:
        ConfigError: a folder has none.
    """
    results = []
    for folder in folders:
        files = sorted(folder.rglob(RESULT_FILE))
        if not files:
            raise ConfigError(
                f"{folder}: expected runs of task=benchmark, which leave a {RESULT_FILE}; found "
                "none. Name such a run, or a folder of them."
            )
        results += [json.loads(file.read_text(encoding="utf8")) for file in files]
    return results


def cells(results: Sequence[dict[str, Any]]) -> list[Cell]:
    """Return the measured figures by method, and the paper's figures of the same kind."""
    groups: dict[tuple[str, str, str], list[tuple[dict[str, Any], tuple[str, ...]]]] = {}
    for result in results:
        for figure in result["report"]["figures"]:
            key = (result["method"], result["benchmark"], figure["name"])
            groups.setdefault(key, []).append((figure, tuple(result["warnings"])))
    measured = [_cell(*key, found) for key, found in groups.items()]
    kinds = {(c.benchmark, c.figure): c.label for c in measured}
    published = [
        Cell(method, suite, name, kinds[suite, name], value, None, None, 1, source)
        for method, suite, name, value, source in PAPER
        if (suite, name) in kinds
    ]
    return measured + published


def _cell(
    method: str,
    benchmark: str,
    name: str,
    found: Sequence[tuple[dict[str, Any], tuple[str, ...]]],
) -> Cell:
    values = [figure["value"] for figure, _ in found]
    first = found[0][0]
    low, high = first["low"], first["high"]
    if len(found) > 1:
        low, high = min(values), max(values)
    warnings = tuple(dict.fromkeys(w for _, ws in found for w in ws))
    return Cell(
        method,
        benchmark,
        name,
        first["label"],
        fmean(values),
        low,
        high,
        len(found),
        OURS,
        warnings,
    )


def headline(found: Sequence[Cell]) -> list[tuple[str, str]]:
    """Return the (benchmark, figure) columns: the first figure that each benchmark has.

    A benchmark's other figures are in the CSV.
    """
    columns: dict[str, str] = {}
    for cell in found:
        wanted = {(suite, name) for _, suite, name, *_ in PAPER}
        if cell.benchmark not in columns or (cell.benchmark, cell.figure) in wanted:
            columns[cell.benchmark] = cell.figure
    return list(columns.items())


def markdown(found: Sequence[Cell]) -> str:
    """Return the table, its marks, and every warning under it."""
    columns = headline(found)
    labels = {(c.benchmark, c.figure): c.label for c in found}
    lines = [
        "| method | "
        + " | ".join(f"{suite}: {labels[suite, name]}" for suite, name in columns)
        + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for source in (OURS, ABSTRACT, SECOND_HAND):
        for method in dict.fromkeys(c.method for c in found if c.source == source):
            row = {
                (c.benchmark, c.figure): c
                for c in found
                if (c.method, c.source) == (method, source)
            }
            texts = [_text(row[column]) if column in row else "" for column in columns]
            if any(texts):
                name = method if source == OURS else f"{method} (paper)"
                lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", *_legend(found, columns)]) + "\n"


def _text(cell: Cell) -> str:
    text = f"{cell.value:.2f}"
    if cell.low is not None and cell.high is not None:
        text += f" ({cell.low:.2f} to {cell.high:.2f})"
    if cell.runs > 1:
        text += f", {cell.runs} runs"
    mark = MARKS.get(cell.source, WARNED if cell.warnings else "")
    return f"{text} {mark}".rstrip()


def _legend(found: Sequence[Cell], columns: Sequence[tuple[str, str]]) -> list[str]:
    shown = [c for c in found if (c.benchmark, c.figure) in columns]
    lines = [
        "In brackets: the interval of one run as its benchmark gives it; of several runs, the "
        "least and the greatest."
    ]
    for source, mark in MARKS.items():
        if any(c.source == source for c in shown):
            text = "of Llama-3-8B-Instruct, " + (
                "from the paper's abstract" if source == ABSTRACT else "quoted second-hand"
            )
            lines.append(f"{mark} {text}.")
    for cell in shown:
        lines += [f"{WARNED} {cell.method}, {cell.benchmark}: {w}" for w in cell.warnings]
    return [line for text in lines for line in (text, "")][:-1]


def as_csv(found: Sequence[Cell]) -> str:
    """Return all figures, one per row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["method", "benchmark", "figure", "value", "low", "high", "runs", "source", "warnings"]
    writer.writerow(names)
    for c in found:
        interval, warnings = (c.value, c.low, c.high), " ".join(c.warnings)
        writer.writerow([c.method, c.benchmark, c.figure, *interval, c.runs, c.source, warnings])
    return out.getvalue()


def picture(found: Sequence[Cell], file: Path) -> Path:
    """Draw a panel for each benchmark: measured figures with intervals, the paper's as hollow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = headline(found)
    figure, axes = plt.subplots(
        1, len(columns), figsize=(4.5 * len(columns), 4), layout="constrained", squeeze=False
    )
    for panel, column in zip(axes[0], columns, strict=True):
        rows = [c for c in found if (c.benchmark, c.figure) == column]
        for height, cell in enumerate(rows):
            ours = cell.source == OURS
            if cell.low is not None and cell.high is not None:
                panel.plot([cell.low, cell.high], [height, height], color="C0", lw=2)
            panel.plot(
                cell.value,
                height,
                "o",
                color="C0" if ours else "grey",
                mfc=None if ours else "white",
            )
        names = [
            c.method if c.source == OURS else f"{c.method} (paper{MARKS[c.source]})" for c in rows
        ]
        panel.set_yticks(range(len(rows)), names)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.set_title(f"{column[0]}\n{rows[0].label}", fontsize=10)
        panel.grid(alpha=0.3, axis="x")
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file
