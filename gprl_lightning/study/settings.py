"""The picture of a grid that goes over settings, too: does the ranking hang on β or the rate?"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from gprl_lightning.study.claims import name_of
from gprl_lightning.study.comparison import Arms, gold_summary
from gprl_lightning.study.figures import colours_of
from gprl_lightning.study.runs import Run

MANY = 8  # methods; more are shown as tiles: dots would run into one another
PANELS = {"final": "gold win rate at the horizon", "drop": "worst drop from the running best"}
Settings = dict[str, dict[str, list[Run]]]
SPREAD = 0.7  # of a setting's row that its methods take


def settings_figure(arms: Arms) -> Any | None:
    """Draw gold at the horizon and worst drop of each method in each setting; None of a single
    setting."""
    settings = by_setting(arms)
    if len(settings) < 2:
        return None
    presets = list(dict.fromkeys(preset for found in settings.values() for preset in found))
    return (_tiles if len(presets) > MANY else _dots)(settings, presets)


def _dots(settings: Settings, presets: list[str]) -> Any:
    """A row for each setting, in it each method's seeds (dots) and their mean."""
    colours = colours_of(presets)
    figure, panels = plt.subplots(
        1, 2, figsize=(10, 1 + 0.8 * len(settings)), sharey=True, layout="constrained"
    )
    for panel, (field, label) in zip(panels, PANELS.items(), strict=True):
        for place, preset in enumerate(presets):
            shift = SPREAD * (place / max(len(presets) - 1, 1) - 0.5)
            for row, found in enumerate(settings.values()):
                values = _values(found.get(preset, []), field)
                at = np.full(len(values), row + shift)
                panel.scatter(values, at, s=9, color=colours[preset], alpha=0.5)
                panel.plot(
                    np.mean(values) if values else np.nan,
                    row + shift,
                    "D",
                    ms=6,
                    color=colours[preset],
                    label=None if row else name_of(preset),
                )
        panel.set_xlabel(label)
        panel.grid(alpha=0.3, axis="x")
        for row in range(1, len(settings)):
            panel.axhline(row - 0.5, color="black", lw=0.5)
    panels[0].set_yticks(range(len(settings)), map(_short, settings), fontsize=8)
    panels[0].invert_yaxis()
    panels[1].legend(fontsize=7, loc="best")
    return figure


def _tiles(settings: Settings, presets: list[str]) -> Any:
    """A tile for each method in each setting with the mean over its seeds; none where it was not
    run."""
    size = (2.5 + 1.7 * len(settings), 1.4 + 0.27 * len(presets))
    figure, panels = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    for panel, (field, label) in zip(panels, PANELS.items(), strict=True):
        values = [[_values(s.get(p, []), field) for s in settings.values()] for p in presets]
        means = np.array([[np.mean(v) if v else np.nan for v in row] for row in values])
        colours = "RdYlGn" if field == "final" else "RdYlGn_r"  # the less drop the better
        panel.imshow(means, cmap=colours, vmin=0, vmax=1, alpha=0.8, aspect="auto")
        for (row, column), mean in np.ndenumerate(means):
            if not np.isnan(mean):
                panel.text(column, row, f"{mean:.2f}", ha="center", va="center", fontsize=8)
        panel.set_xticks(range(len(settings)), map(_short, settings), fontsize=7)
        panel.set_title(label, fontsize=10)
    panels[0].set_yticks(range(len(presets)), map(name_of, presets), fontsize=8)
    return figure


def _values(runs: list[Run], field: str) -> list[float]:
    return [getattr(gold_summary(run), field) for run in runs]


def by_setting(arms: Arms) -> Settings:
    """Return the runs by setting, then by preset; the setting of a grid without any is empty."""
    found: Settings = {}
    for arm, by_seed in arms.items():
        preset, _, setting = arm.partition(" ")
        found.setdefault(setting, {})[preset] = list(by_seed.values())
    return found


def _short(setting: str) -> str:
    """Keys without the sections that they are in."""
    return re.sub(r"[\w.]+\.(?=\w+=)", "", setting).replace(" ", "\n")
