"""``report.png`` and the closing table of a run, from its ``metrics.csv`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.cautions import result_cautions
from gprl_lightning.tracking.loggers import read_metrics

Columns = dict[str, tuple[list[int], list[float]]]
LEGEND_ROOM = 0.2  # above the curves, of their height, so that a legend covers none


def write_report(folder: Path) -> Path:
    """Draw the curves of a run into ``report.png``: one panel per question.

    Raises:
        FileNotFoundError: the folder holds no metrics.csv.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = read_metrics(folder / "metrics.csv")
    figure, axes = plt.subplots(3, 3, figsize=(15, 10.5), layout="constrained")
    panels = axes.flatten()
    _win_rate(panels[0], columns)
    _lines(panels[1], columns, metrics.AXIS_SCORE_STD, "score spread per axis", "std in the group")
    _lines(panels[2], columns, metrics.AXIS_EIGENVALUE, "eigenvalues λ", "mean over prompts")
    _lines(panels[3], columns, metrics.AXIS_VARIANCE_SHARE, "variance share α", "share")
    _lines(panels[4], columns, metrics.AXIS_MULTIPLIER, "axis multipliers m", "multiplier")
    _drift(panels[5], columns)
    _single(panels[6], columns, {metrics.DRIFT_KL_COEF: "β"}, "KL coefficient β", "")
    _single(
        panels[7], columns, {metrics.KL: "KL to reference"}, "KL to the reference", "nats per token"
    )
    _single(
        panels[8],
        columns,
        {metrics.RESPONSE_LENGTH: "rollouts", metrics.EVAL_RESPONSE_LENGTH: "held-out"},
        "response length",
        "tokens",
    )
    for panel in panels:
        panel.set_xlabel("iteration")
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0]:
            low, high = panel.get_ylim()
            panel.set_ylim(low, high + LEGEND_ROOM * (high - low))
            panel.legend(fontsize=8, loc="upper center", ncols=3)
        else:
            panel.text(0.5, 0.5, "not measured in this run", ha="center", transform=panel.transAxes)
    figure.suptitle(folder.resolve().parent.name + " / " + folder.resolve().name)
    out = folder / "report.png"
    figure.savefig(out, dpi=80)
    plt.close(figure)
    return out


def _win_rate(panel, columns: Columns) -> None:
    panel.set_title("held-out win rate against the starting policy")
    panel.axhline(0.5, color="grey", lw=1, ls=":")
    if metrics.EVAL_WIN_RATE in columns:
        steps, values = columns[metrics.EVAL_WIN_RATE]
        low, high = columns[metrics.EVAL_WIN_RATE_LOW][1], columns[metrics.EVAL_WIN_RATE_HIGH][1]
        panel.fill_between(steps, low, high, alpha=0.2, label="95 % interval")
        panel.plot(steps, values, marker="o", label="judge")
        panel.plot(*columns[metrics.EVAL_PROXY_WIN_RATE], ls="--", label="proxy")
        panel.plot(*columns[metrics.EVAL_LENGTH_CONTROLLED], ls=":", label="at equal length")


def _drift(panel, columns: Columns) -> None:
    panel.set_title("drift 𝒟 against its threshold".replace("𝒟", "D"))
    panel.set_ylabel("nats")
    if metrics.DRIFT_DIVERGENCE in columns:
        steps, values = columns[metrics.DRIFT_DIVERGENCE]
        panel.plot(steps, values, label="drift")
        if metrics.DRIFT_THRESHOLD in columns:
            panel.plot(
                *columns[metrics.DRIFT_THRESHOLD], color="crimson", ls="--", label="threshold"
            )
        active = [s for s, a in zip(*columns[metrics.DRIFT_ACTIVE], strict=True) if a]
        height = dict(zip(steps, values, strict=True))
        panel.plot(active, [height[s] for s in active], "r.", ms=4, label="intervention")


def _lines(panel, columns: Columns, name: str, title: str, unit: str) -> None:
    shown = {k: f"axis {k.rsplit('/', 1)[1]}" for k in sorted(columns) if k.startswith(name + "/")}
    _single(panel, columns, shown, title, unit)


def _single(panel, columns: Columns, names: dict[str, str], title: str, unit: str) -> None:
    panel.set_title(title)
    panel.set_ylabel(unit)
    for name, label in names.items():
        if name in columns:
            panel.plot(*columns[name], label=label)


def summary_rows(
    columns: Columns, cautions: Sequence[str] = (), judge: str = ""
) -> list[tuple[str, str]]:
    """The closing table of a run: (what, value) rows, only of what was measured.

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
        rows.append(("… by the preference model", f"{last[metrics.EVAL_PROXY_WIN_RATE]:.1%}"))
        rows.append(
            _change("held-out response length", metrics.EVAL_RESPONSE_LENGTH, first, last, "{:.1f}")
        )
    rows += [
        _change(name.replace("eval/", ""), name, first, last, "{:.3f}")
        for name in sorted(last)
        if name.startswith(metrics.EVAL_GOLD + "/")
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


def _change(label: str, name: str, first: dict, last: dict, form: str) -> tuple[str, str]:
    return label, f"{form.format(first[name])} → {form.format(last[name])}"


def print_table(rows: Sequence[tuple[str, str]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False)
    for row in rows:
        table.add_row(*row)
    Console(width=max(80, Console().width)).print(table)
