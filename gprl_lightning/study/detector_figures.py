"""``detectors.png``: who sees which exploit, who alarms at nothing, and one stream in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TITLES = {
    "variance_share": "variance share\n(GPRL)",
    "weighted_share": "λ-weighted\nshare",
    "anchored": "anchored\nscore",
    "mean_length": "mean\nlength",
    "surprise": "surprise\n(ours)",
}
SHOWN = ("variance_share", "surprise")  # the detectors whose streams are drawn


def write_figure(
    file: Path, rows: Sequence[dict[str, Any]], found: Sequence[Any], target: float
) -> None:
    """Draw two heat maps of detection rates, false alarms, and an example stream by two
    detectors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(19, 12), layout="constrained")
    for panel, pushed in zip(panels[0], (False, True), strict=False):
        _rates(panel, [r for r in rows if not r["healthy"] and bool(r["pushed_axes"]) == pushed])
        kind = "the preference model also rewards it" if pushed else "the preference model as it is"
        panel.set_title(f"exploits detected; {kind}")
    _false_alarms(panels[0][2], [row for row in rows if row["healthy"]], target)
    example = _example(found)
    for panel, name in zip(panels[1], SHOWN, strict=False):
        _stream(panel, example, name)
    _gold(panels[1][2], found)
    figure.savefig(file, dpi=80)
    plt.close(figure)


def _rates(panel: Any, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        panel.text(0.5, 0.5, "no exploit costs gold", ha="center", transform=panel.transAxes)
        return
    names = list(dict.fromkeys(row["detector"] for row in rows))
    kinds = list(dict.fromkeys((row["exploit"], row["strength"]) for row in rows))
    rates = np.zeros((len(kinds), len(names)))
    for y, kind in enumerate(kinds):
        for x, name in enumerate(names):
            mine = [
                r for r in rows if (r["exploit"], r["strength"]) == kind and r["detector"] == name
            ]
            rates[y, x] = sum(r["detected"] for r in mine) / max(sum(r["runs"] for r in mine), 1)
            dark = rates[y, x] > 0.6
            panel.text(
                x, y, f"{rates[y, x]:.0%}", ha="center", va="center", color="w" if dark else "k"
            )
    panel.imshow(rates, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    panel.set_xticks(range(len(names)), [TITLES[name] for name in names], fontsize=8)
    panel.set_yticks(range(len(kinds)), [f"{plant} {strength}" for plant, strength in kinds])


def _false_alarms(panel: Any, rows: Sequence[dict[str, Any]], target: float) -> None:
    names = list(dict.fromkeys(row["detector"] for row in rows))
    for offset, learning in ((-0.2, False), (0.2, True)):
        mine = [row for row in rows if bool(row["learning"]) == learning]
        rates = [row["false_alarm_runs"] / row["runs"] for row in mine]
        label = "healthy, learning" if learning else "healthy, standing still"
        panel.bar(np.arange(len(names)) + offset, rates, 0.4, label=label)
    panel.axhline(target, color="crimson", ls="--", lw=1, label=f"set to {target:.0%} on others")
    panel.set_xticks(range(len(names)), [TITLES[name] for name in names], fontsize=8)
    panel.set_ylim(0, 1.05)
    panel.set_title("healthy streams with at least one false alarm")
    panel.legend(fontsize=8)


def _example(found: Sequence[Any]) -> Any:
    """Repetition in the middle of its strengths and ramps, the preference model as it is."""
    exploited = [f for f in found if f.scenario.version.name == "repetition"]
    plain = [f for f in exploited if not f.scenario.pushed_axes]
    return plain[len(plain) // 2]


def _stream(panel: Any, example: Any, name: str) -> None:
    watch, scenario = example.watches[name][0], example.scenario
    panel.plot(watch.statistic, label="statistic")
    panel.axhline(watch.threshold, color="crimson", ls="--", label="threshold")
    panel.set_ylim(bottom=0)
    panel.set_xlabel("step")
    panel.set_ylabel("nats per token" if name == "surprise" else "nats")
    gold = panel.twinx()
    gold.plot(example.gold, color="goldenrod", label="gold win rate (right)")
    gold.set_ylim(0, 1)
    panel.set_title(
        f"{TITLES[name]}: {scenario.version.name} {scenario.version.strength}, all exploited after "
        f"{scenario.ramp} steps".replace("\n", " ")
    )
    lines = [*panel.get_lines(), *gold.get_lines()]
    panel.legend(lines, [line.get_label() for line in lines], fontsize=8, loc="upper left")


def _gold(panel: Any, found: Sequence[Any]) -> None:
    """The gold of the healthy streams, and of each exploit at its strongest and slowest."""
    healthy = [f for f in found if f.scenario.healthy]
    for one in healthy:
        panel.plot(one.gold, label="learning" if one.scenario.learning else "standing still", lw=2)
    exploited = [f for f in found if not f.scenario.healthy and not f.scenario.pushed_axes]
    strongest = {f.scenario.version.name: f for f in exploited}
    for name, one in strongest.items():
        panel.plot(one.gold, label=f"{name} {one.scenario.version.strength}", lw=1)
    panel.set_title("gold win rate over the starting policy, mean over streams")
    panel.set_xlabel("step")
    panel.set_ylim(0, 1)
    panel.legend(fontsize=8)
