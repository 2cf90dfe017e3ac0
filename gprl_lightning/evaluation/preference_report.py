"""The evaluation of a preference model as a JSON file, a table on the console, and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def write_evaluation(found: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write `evaluate_preference_model`'s result as ``evaluation.json`` and three plots.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "evaluation.json"
    report.write_text(json.dumps(found, indent=2) + "\n", encoding="utf8")
    plots = {"reliability": _reliability, "margin": _margin, "axes": _axes}
    return [report, *(_plot(found, draw, folder / f"{name}.png") for name, draw in plots.items())]


def print_evaluation(found: dict[str, Any], console: Console | None = None) -> None:
    """Return the figures that matter, as a table."""
    table = Table(title=f"Preference model: {found['kind']}, {found['num_axes']} axes")
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in _rows(found):
        table.add_row(name, value)
    (console or Console()).print(table)


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    def numbers(values: list[float]) -> str:
        return "  ".join(f"{value:.2f}" for value in values)

    length, axes, data = found["length"], found["axes"], found["data_cycles"]
    model = found["model_cycles"]
    gate, turned = found["gate"], found["identification"]
    told = [] if gate["subset_from_gate"] is None else [gate]
    subsets = found["by_subset"] if len(found["by_subset"]) > 1 else {}
    return [
        ("pairs / prompts", f"{found['pairs']} / {found['prompts']}"),
        ("accuracy", share(found["accuracy"])),
        *((f"  {name} ({s['pairs']})", share(s["accuracy"])) for name, s in subsets.items()),
        ("calibration error", share(found["calibration"]["error"])),
        ("longer wins, by the model", share(length["longer_wins_by_model"])),
        ("longer wins, by the labels", share(length["longer_wins_by_labels"])),
        ("share of score variance by axis", numbers(axes["variance_share"])),
        ("correlation between axes, mean", f"{axes['mean_correlation']:.2f}"),
        ("eigenvalues, mean over prompts", numbers(axes["eigenvalue_mean"])),
        ("eigenvalues, deviation over prompts", numbers(axes["eigenvalue_std"])),
        *(
            (f"  of {n}", numbers(s["eigenvalues"]))
            for g in told
            for n, s in g["by_subset"].items()
        ),
        *(
            (f"subset read from λ (chance {share(g['chance'])})", share(g["subset_from_gate"]))
            for g in told
        ),
        *((f"axes against {name}", numbers(v)) for name, v in found["attributes"].items()),
        *(_turned(turned) if turned else ()),
        (f"cyclic triads of the model (of {model['triads']})", share(model["share"])),
        (
            f"accuracy on cycles ({data['pairs_on_cycles']} pairs)",
            share(data["accuracy_on_cycles"]),
        ),
        ("accuracy elsewhere", share(data["accuracy_elsewhere"])),
    ]


def _turned(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What rotations that change no score do to advantages."""
    spread = found["correlation"]
    return [
        (
            "Â under rotations of the axes: least, median",
            f"{spread['least']:.3f}  {spread['median']:.3f}",
        ),
        (
            "Â on the principal axes, on the joint ones",
            f"{found['principal']:.3f}  {found['joint']:.3f}",
        ),
        ("Â per axis with one z-score's", f"{found['one_z_score']:.4f}"),
    ]


def _plot(found: dict[str, Any], draw: Any, file: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    draw(found, figure.add_subplot())
    figure.savefig(file, dpi=120)
    return file


def _reliability(found: dict[str, Any], plot: Any) -> None:
    bins = found["calibration"]["bins"]
    plot.plot([0.5, 1], [0.5, 1], color="0.7", label="perfect")
    confidence, agreement = ([b[k] for b in bins] for k in ("confidence", "agreement"))
    plot.plot(confidence, agreement, "o-", label="model")
    plot.set(
        xlabel="confidence",
        ylabel="agreement with the labels",
        ylim=(0, 1.02),
        title=f"Calibration error {found['calibration']['error']:.3f}",
    )
    plot.legend()


def _margin(found: dict[str, Any], plot: Any) -> None:
    for name, bins in found["by_margin"].items():
        positions = range(1, len(bins) + 1)
        plot.plot(positions, [b["accuracy"] for b in bins], "o-", label=f"margin of the {name}")
    plot.set(xlabel="quartile of the margin", ylabel="accuracy", ylim=(0, 1.02), title="By margin")
    plot.set_xticks(range(1, 5))
    plot.legend()


def _axes(found: dict[str, Any], plot: Any) -> None:
    correlation = found["axes"]["correlation"]
    image = plot.imshow(correlation, vmin=-1, vmax=1, cmap="coolwarm")
    for i, line in enumerate(correlation):
        for j, value in enumerate(line):
            plot.text(j, i, f"{value:.2f}", ha="center", va="center")
    ticks = range(len(correlation))
    plot.set_xticks(ticks)
    plot.set_yticks(ticks)
    plot.set(xlabel="axis", ylabel="axis", title="Correlation of group scores")
    plot.figure.colorbar(image)
