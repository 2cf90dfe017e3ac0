"""The laboratory's pictures: curves by world, the map, and the contrasts that are complete."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import pyplot as plt

from gprl_lightning.study.figures import band, by_distance
from gprl_lightning.study.intervals import Interval
from gprl_lightning.study.laboratory_judge import (
    Found,
    Measures,
    gold_difference,
    judge_primary,
    judge_secondary,
)
from gprl_lightning.study.laboratory_page import measures_of
from gprl_lightning.study.laboratory_plan import ARMS, LOG_GATE_SPREAD, MAP, MODELS, REMEDIES
from gprl_lightning.study.laboratory_records import Kept, by_arm
from gprl_lightning.study.verdict_figures import COLOURS, error_bar
from gprl_lightning.study.verdicts import MARGIN
from gprl_lightning.tracking import metrics

REFERENCE = "bt_best"  # stands beside the remedies, too
POINTS = 100.0  # in a win rate of 1


def pictures_of(kept: Sequence[Kept]) -> dict[str, Any]:
    """Return the pictures that the runs so far allow, by name: *worlds*, *map*, *verdicts*."""
    measures = measures_of(kept)
    drawn = {
        "worlds": _worlds(by_arm(kept)),
        "map": _map(measures),
        "verdicts": _verdicts(measures),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _worlds(runs: Mapping[str, Mapping[int, Kept]]) -> Any | None:
    """A panel for each world: mean gold of its arms against √KL, as far as every seed comes."""
    worlds = dict.fromkeys(ARMS[arm].world for arm in runs if ARMS[arm].world != MODELS)
    if not worlds:
        return None
    columns = min(2, len(worlds))
    rows = -(-len(worlds) // columns)
    size = 6 * columns, 5.6 * rows
    figure, panels = plt.subplots(
        rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for panel in panels.flatten()[len(worlds) :]:
        panel.set_visible(False)
    for panel, world in zip(panels.flatten(), worlds, strict=False):
        here = [arm for arm in runs if ARMS[arm].world == world]
        if world == REMEDIES and REFERENCE in runs:
            here.insert(0, REFERENCE)
        colours = plt.get_cmap("tab10")
        for place, arm in enumerate(here):
            found = [one.run for one in runs[arm].values()]
            places, means, low, high = band(found, by_distance(metrics.EVAL_WIN_RATE))
            style = {"ls": "--", "lw": 1.2} if ARMS[arm].explores else {"lw": 1.8}
            label = f"{ARMS[arm].name} ({len(found)})"
            panel.plot(places, means, color=colours(place % 10), label=label, **style)
            panel.plot(places[-1], means[-1], "o", ms=5, color=colours(place % 10))
            panel.fill_between(places, low, high, color=colours(place % 10), alpha=0.08, lw=0)
        panel.axhline(0.5, color="black", lw=0.7, ls=":")
        panel.set(xlabel="√KL to the starting policy, √nats", title=world, ylim=(0, 1.02))
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    figure.supylabel("gold win rate over the starting policy (in brackets: seeds)", fontsize=10)
    return figure


def _map(measures: Measures) -> Any | None:
    """What the step per axis adds to one z-score, by kind of axes: a row each."""
    found = {axes: gold_difference(measures, *arms) for axes, arms in MAP.items()}
    if not any(seeds for seeds, _ in found.values()):
        return None
    figure, panel = plt.subplots(figsize=(8, 0.9 + 0.7 * len(found)), layout="constrained")
    for place, (seeds, interval) in enumerate(found.values()):
        if not math.isnan(interval.mean):
            points = _points(interval)
            error_bar(panel, points, place, color="tab:blue", fmt="o")
            panel.annotate(
                f"{points.mean:+.0f} (n = {seeds})", (points.mean, place), fontsize=8,
                xytext=(0, 7), textcoords="offset points", ha="center",
            )  # fmt: skip
        else:
            told = f"{seeds} seeds so far" if seeds else "not run yet"
            panel.annotate(told, (0, place), fontsize=8, ha="center", va="center")
    panel.axvspan(-POINTS * MARGIN, POINTS * MARGIN, color="tab:blue", alpha=0.08, lw=0)
    panel.axvline(0, color="black", lw=0.8)
    panel.set_yticks(range(len(found)), list(found), fontsize=8)
    panel.set_ylim(len(found) - 0.5, -0.7)
    panel.set_xlabel("per axis less one z-score, same β: points of gold at the horizon")
    panel.set_title("← harms        the step per axis        helps →", fontsize=10)
    panel.grid(alpha=0.3)
    return figure


def _verdicts(measures: Measures) -> Any | None:
    """Every complete contrast that is counted in points, with its word's colour."""
    found = [("primary", judge_primary(measures))]
    found += [(name, f) for name, judged in judge_secondary(measures).items() for f in judged.found]
    whole = [(n, f) for n, f in found if f.complete and f.contrast.measure != LOG_GATE_SPREAD]
    if not whole:
        return None
    figure, panel = plt.subplots(figsize=(10, 1.2 + 0.36 * len(whole)), layout="constrained")
    for place, (_, one) in enumerate(whole):
        assert one.paired is not None
        colour = COLOURS[one.paired.verdict]
        error_bar(panel, _points(one.paired.interval), place, color=colour, fmt="o")
    panel.axvspan(-POINTS * MARGIN, POINTS * MARGIN, color="tab:blue", alpha=0.08, lw=0)
    panel.axvline(0, color="black", lw=0.8)
    panel.set_yticks(range(len(whole)), [_label(*one) for one in whole], fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel("points")
    for word, colour in COLOURS.items():
        panel.plot([], [], "o", color=colour, label=word)
    figure.legend(fontsize=8, ncols=4, loc="outside lower center")
    panel.grid(alpha=0.3)
    return figure


def _label(name: str, found: Found) -> str:
    return f"{name}: {found.contrast.says} ({found.contrast.expected})"


def _points(interval: Interval) -> Interval:
    return Interval(POINTS * interval.mean, POINTS * interval.low, POINTS * interval.high)
