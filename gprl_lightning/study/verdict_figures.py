"""The study's pictures of numbers: what each arm comes to, and what sets two arms apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from gprl_lightning.study.claims import name_of
from gprl_lightning.study.comparison import Arms, Compared, gold_summary, over_seeds
from gprl_lightning.study.intervals import Interval, exact_share
from gprl_lightning.study.stopping import CLOCK, FIXED_BETA, KL_TRIGGER
from gprl_lightning.study.verdicts import MARGIN, Paired

COLOURS = {
    "better": "tab:green", "worse": "tab:red", "equivalent": "tab:blue", "undecided": "tab:grey",
}  # fmt: skip
MARKERS = {FIXED_BETA: "o", CLOCK: "s", KL_TRIGGER: "^"}
LEVELS = {
    "peak": ("peak", "tab:blue", -0.25),
    "proxy_choice": ("where the proxy is best", "tab:orange", 0.0),
    "final": ("horizon", "tab:red", 0.25),
}  # gold's field: label, colour, shift


def summary_figure(arms: Arms) -> Any:
    """Draw gold at three places, the worst drop and the collapse rate of every arm, with 95 %
    intervals."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(11, 1 + 0.38 * len(arms)), sharey=True, layout="constrained"
    )
    for place, by_seed in enumerate(arms.values()):
        runs = list(by_seed.values())
        summaries = [gold_summary(run) for run in runs]
        for field, (label, colour, shift) in LEVELS.items():
            interval = over_seeds(runs, lambda r, f=field: getattr(gold_summary(r), f))
            label = label if place == 0 else None
            error_bar(left, interval, place + shift, color=colour, fmt="o", label=label)
        drop = over_seeds(runs, lambda r: gold_summary(r).drop)
        error_bar(middle, drop, place, color="black", fmt="o")
        collapsed = exact_share(int(sum(s.collapsed for s in summaries)), len(summaries))
        error_bar(right, collapsed, place, color="black", fmt="o")
    left.set_yticks(range(len(arms)), [name_of(arm) for arm in arms], fontsize=8)
    left.invert_yaxis()
    left.set(xlabel="gold win rate", xlim=(-0.1, 1.02))  # Student's bounds know no limits
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)
    middle.set(xlabel="worst drop from the running best")
    right.set(xlabel="share of runs that end under .4", xlim=(-0.03, 1.03))
    for panel in (left, middle, right):
        panel.grid(alpha=0.3)
    return figure


def differences_figure(compared: Sequence[Compared]) -> Any:
    """Draw paired differences in gold by claim, coloured by verdict: one panel a question."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 1.3 + 0.36 * len(compared)), sharey=True, layout="constrained"
    )
    for place, c in enumerate(compared):
        _difference(left, c.frontier, place, "o")
        for shift, (name, paired) in zip((-0.25, 0, 0.25), c.stops.items(), strict=True):
            _difference(right, paired, place + shift, MARKERS[name])
    left.set_title("a better frontier? gold at equal √KL", fontsize=9)
    right.set_title("a better stop? gold at the horizon, the other arm under …", fontsize=9)
    for panel in (left, right):
        panel.axvspan(-100 * MARGIN, 100 * MARGIN, color="tab:blue", alpha=0.08, lw=0)
        panel.axvline(0, color="black", lw=0.8)
        panel.set_xlabel("difference in gold win rate, points")
        panel.grid(alpha=0.3)
    labels = [f"{name_of(c.claim.arm)} − {name_of(c.claim.against)}" for c in compared]
    left.set_yticks(range(len(compared)), labels, fontsize=7)
    left.set_ylim(len(compared) - 0.5, -0.5)
    figure.legend(handles=_legend(), loc="outside upper left", ncols=8, fontsize=8)
    return figure


def _legend() -> list[Line2D]:
    words = [
        Line2D([], [], color=colour, marker="o", label=word) for word, colour in COLOURS.items()
    ]
    names = [
        Line2D([], [], color="black", marker=marker, ls="", label=name)
        for name, marker in MARKERS.items()
    ]
    return words + names


def _difference(panel: Any, paired: Paired, place: float, marker: str) -> None:
    found = paired.interval
    points = Interval(*(100 * value for value in (found.mean, found.low, found.high)))
    error_bar(panel, points, place, color=COLOURS[paired.verdict], fmt=marker)


def error_bar(panel: Any, interval: Interval, place: float, **style: Any) -> None:
    """Draw a mean with its interval, if it has one, as a horizontal bar."""
    width = np.nan_to_num([[interval.mean - interval.low], [interval.high - interval.mean]])
    panel.errorbar([interval.mean], [place], xerr=width, ms=4, **style)
