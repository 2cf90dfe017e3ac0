"""``report.png`` and the closing table of a run, from its ``metrics.csv`` and its answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from gprl_lightning.config.judging import PROXY
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.answer_log import (
    answered_iterations,
    eigenvalues_by_task,
    read_answers,
)
from gprl_lightning.tracking.cautions import result_cautions
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.panels import Columns, Panel, judged, panels_of

PREFERENCE_ROWS = {
    metrics.HELD_OUT_ACCURACY: "accuracy on held-out pairs",
    metrics.HELD_OUT_LOSS: "loss on held-out pairs",
}
LEGEND_ROOM = 0.22  # above the curves, of their height, so that a legend covers none
LEGEND_WIDTH = 60  # characters of a legend that a panel has room for


def write_report(folder: Path) -> Path:
    """Draw the curves of a run into ``report.png``: one panel per question that it can answer.

    Raises:
        FileNotFoundError: the folder holds no metrics.csv.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = read_metrics(folder / "metrics.csv")
    shown = panels_of(columns)
    answers = answered_iterations(folder)
    rows = read_answers(folder, answers[-1]) if answers else []
    tasks = eigenvalues_by_task(rows)
    count = len(shown) + bool(tasks)
    across = min(3, max(1, math.ceil(count / 2)))
    down = max(1, math.ceil(count / across))
    figure = Figure(figsize=(5.2 * across, 3.6 * down + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for plot, panel in zip(panels, shown, strict=False):
        draw(plot, panel, columns)
    if tasks:
        draw_tasks(panels[len(shown)], tasks, rows[0]["axes"])
    for plot in panels[count:]:
        plot.set_axis_off()
    figure.suptitle(folder.resolve().parent.name + " / " + folder.resolve().name)
    out = folder / "report.png"
    figure.savefig(out, dpi=80)
    return out


def draw_tasks(plot, tasks: Mapping[str, Sequence[float]], axes: Sequence[str]) -> None:
    """Draw the eigenvalues of each task as a map: what the preference model weighs where."""
    rows = [list(values) for values in tasks.values()]
    lowest, highest = min(0.0, *map(min, rows)), max(map(max, rows))
    plot.imshow(rows, cmap="Blues", vmin=lowest, vmax=highest, aspect="auto")
    plot.set(title="eigenvalues λ by task", xlabel="axis (mean over held-out prompts)")
    slanted = max(map(len, axes)) > 3  # names do not fit side by side
    turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    plot.set_xticks(range(len(axes)), axes, **turn)
    plot.set_yticks(range(len(tasks)), list(tasks))
    for row, values in enumerate(rows):
        for column, value in enumerate(values):
            dark = value - lowest > 0.6 * (highest - lowest)
            ink = {"ha": "center", "va": "center", "color": "white" if dark else "black"}
            plot.text(column, row, f"{value:.2f}", fontsize=8, **ink)


def draw(plot, panel: Panel, columns: Columns) -> None:
    """Draw a panel into matplotlib's axes."""
    plot.set(title=panel.title, xlabel="iteration", ylabel=panel.unit)
    plot.xaxis.get_major_locator().set_params(integer=True)
    plot.grid(alpha=0.3)
    if panel.level is not None:
        plot.axhline(panel.level, color="grey", lw=1, ls=":")
    for name, label in panel.lines.items():
        steps, values = columns[name]
        sparse = "o" if len(steps) < 25 else None
        style = "--" if name in panel.dashed else "-"
        plot.plot(steps, values, style, marker=sparse, ms=3, label=label)
    first = next(iter(panel.lines))
    if panel.band:
        low, high = (columns[name][1] for name in panel.band)
        plot.fill_between(columns[panel.band[0]][0], low, high, alpha=0.2, label="95 % interval")
    if panel.dots:
        height = dict(zip(*columns[first], strict=True))
        marked = [s for s, on in zip(*columns[panel.dots], strict=True) if on and s in height]
        heights = [height[s] for s in marked]
        if marked:
            plot.plot(marked, heights, "r.", ms=4, label=panel.dots_label)
    labels = plot.get_legend_handles_labels()[1]
    low, high = plot.get_ylim()
    across = max(1, min(3, LEGEND_WIDTH // (max(map(len, labels)) + 6)))
    rows = math.ceil(len(labels) / across)
    plot.set_ylim(low, high + LEGEND_ROOM * (0.4 + 0.6 * rows) * (high - low))
    plot.legend(fontsize=8, loc="upper center", ncols=across)


def summary_rows(
    columns: Columns, cautions: Sequence[str] = (), judge: str = ""
) -> list[tuple[str, str]]:
    """Return the closing table of a run: (what, value) rows, only of what was measured.

    Args:
        columns: of the run's metrics.csv.
        cautions: of the run's set-up; those of its results are found here.
        judge: whose verdicts the win rate counts.
    """
    last = {name: values[-1] for name, (_, values) in columns.items()}
    first = {name: values[0] for name, (_, values) in columns.items()}
    rows: list[tuple[str, str]] = []
    if metrics.EVAL_WIN_RATE in last:
        low, high = last[metrics.EVAL_WIN_RATE_LOW], last[metrics.EVAL_WIN_RATE_HIGH]
        rate = f"{last[metrics.EVAL_WIN_RATE]:.1%}  (95 %: {low:.1%} – {high:.1%})"
        rows += [
            ("held-out win rate", rate),
            ("… before training", f"{first[metrics.EVAL_WIN_RATE]:.1%}"),
        ]
        rows += [("… judged by", judge)] if judge else []
        rows.append(("… at equal length", f"{last[metrics.EVAL_LENGTH_CONTROLLED]:.1%}"))
        rows += _other_judges(columns, judge)
        rows.append(
            _change("held-out response length", metrics.EVAL_RESPONSE_LENGTH, first, last, "{:.1f}")
        )
    rows += [
        _change(name.replace("eval/", ""), name, first, last, "{:.3f}")
        for name in sorted(last)
        if name.startswith(metrics.EVAL_GOLD + "/")
    ]
    rows += [
        _change(label, name, first, last, "{:.3f}")
        for name, label in PREFERENCE_ROWS.items()
        if name in last
    ]
    if metrics.KL in last:
        rows.append(("KL to the reference", f"{last[metrics.KL]:.4f} nats per token"))
    if metrics.DRIFT_ACTIVE in columns:
        active = int(sum(columns[metrics.DRIFT_ACTIVE][1]))
        rows.append(("drift interventions", f"{active} of {len(columns[metrics.DRIFT_ACTIVE][1])}"))
    for name in (metrics.TIME_ROLLOUT, metrics.TIME_SCORE, metrics.TIME_UPDATE):
        if name in columns:
            values = columns[name][1]
            rows.append((name, f"{sum(values) / len(values):.3f} s per iteration"))
    results = result_cautions({name: values for name, (_, values) in columns.items()})
    return rows + [("caution", text) for text in (*cautions, *results.values())]


def _other_judges(columns: Columns, quoted: str) -> list[tuple[str, str]]:
    """The last win rate of each judge but the quoted one, and what a judge left undecided."""
    rows = []
    for name, (_, values) in judged(columns).items():
        if name != quoted.partition(":")[0]:
            who = "the reward itself" if name == PROXY else name
            rows.append((f"… by {who}", f"{values[-1]:.1%}"))
        silent = columns.get(metrics.of_judge(metrics.EVAL_NO_VERDICT, name), ([], [0.0]))[1][-1]
        if silent:
            rows.append((f"… without a verdict of {name}", f"{silent:.0f} comparisons"))
    return rows


def _change(label: str, name: str, first: dict, last: dict, form: str) -> tuple[str, str]:
    return label, f"{form.format(first[name])} → {form.format(last[name])}"


def print_table(rows: Sequence[tuple[str, str]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False)
    for row in rows:
        table.add_row(*row)
    Console(width=max(80, Console().width)).print(table)
