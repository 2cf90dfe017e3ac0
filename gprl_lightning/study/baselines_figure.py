"""The picture of the baselines' page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from gprl_lightning.study.baselines import GPRL, RIVALS, Beside, arms_in, beside, budgets_in
from gprl_lightning.study.claims import name_of
from gprl_lightning.study.comparison import Arms
from gprl_lightning.study.figures import band, by_distance, colours_of
from gprl_lightning.study.intervals import Interval
from gprl_lightning.study.verdict_figures import COLOURS, error_bar
from gprl_lightning.study.verdicts import MARGIN
from gprl_lightning.tracking import metrics


def picture_of(record: Mapping[str, Any]) -> Any:
    """Return gold against √KL of the online methods, of those on pairs, and what sets them apart
    from GPRL."""
    arms, _ = arms_in(record)
    budgets = budgets_in(record)
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(15, 5), layout="constrained", width_ratios=(1, 1, 0.8)
    )
    middle.sharey(left)
    online = [arm for arm in arms if not budgets[arm].on_pairs]
    pairs = [arm for arm in arms if budgets[arm].on_pairs]
    colours = colours_of(online)
    _curves(left, arms, online, colours, "online")
    held = {arm: colours[arm] for arm in RIVALS if arm in colours}
    free = [c for c in colours.values() if c not in held.values()]
    _curves(middle, arms, [*held, *pairs], held | dict(zip(pairs, free, strict=False)), "on pairs")
    left.set_ylabel("gold win rate over the starting policy")
    _forest(right, beside(arms, GPRL))
    return figure


def _curves(
    panel: Any, arms: Arms, shown: Sequence[str], colours: dict[str, Any], title: str
) -> None:
    for arm in shown:
        places, means, low, high = band(
            list(arms[arm].values()), by_distance(metrics.EVAL_WIN_RATE)
        )
        wide = arm in RIVALS
        panel.plot(places, means, color=colours[arm], lw=2.4 if wide else 1.3, label=name_of(arm))
        if wide:
            panel.fill_between(places, low, high, color=colours[arm], alpha=0.12, lw=0)
    panel.axhline(0.5, color="black", lw=0.7, ls=":")
    panel.set(xlabel="√KL to the starting policy, √nats", title=title)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8, ncols=2)


def _forest(panel: Any, found: Mapping[str, Beside]) -> None:
    for place, b in enumerate(found.values()):
        frontier = b.compared.frontier
        seen = frontier.interval
        points = Interval(*(100 * v for v in (seen.mean, seen.low, seen.high)))
        error_bar(panel, points, place, color=COLOURS[frontier.verdict], fmt="o")
    panel.axvspan(-100 * MARGIN, 100 * MARGIN, color="tab:blue", alpha=0.08, lw=0)
    panel.axvline(0, color="black", lw=0.8)
    panel.set_yticks(np.arange(len(found)), [name_of(arm) for arm in found], fontsize=8)
    panel.invert_yaxis()
    panel.set(xlabel="points of gold", title=f"less {name_of(GPRL)}, at equal √KL")
    panel.grid(alpha=0.3)
