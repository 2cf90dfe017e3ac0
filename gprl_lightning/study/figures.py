"""The study's pictures of curves: every arm's, with bands over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from gprl_lightning.study.claims import BASELINE, FULL, name_of
from gprl_lightning.study.comparison import Arms
from gprl_lightning.study.curves import at_distance
from gprl_lightning.study.intervals import student
from gprl_lightning.study.runs import Run
from gprl_lightning.study.tables import gold_axes
from gprl_lightning.tracking import metrics

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Array = NDArray[np.float64]
Curve = Callable[[Run], tuple[Array, Array]]
MAIN = (
    BASELINE, FULL, "no_drift", "grpo_gpm", "distinct_axes", "distinct_grpo", "gold_reward",
)  # fmt: skip
POINTS = 60  # of a curve against √KL


def by_iteration(metric: str) -> Curve:
    return lambda run: run.values(metric)


def by_distance(metric: str) -> Curve:
    """Return, against √KL, the value at the first coming to each of 60 distances, up to the
    run's last."""

    def curve(run: Run) -> tuple[Array, Array]:
        distance = run.distance()
        wanted = np.linspace(0, float(distance.max()), POINTS)
        return wanted, at_distance(distance, run.values(metric)[1], wanted)

    return curve


def band(runs: Sequence[Run], curve: Curve) -> tuple[Array, Array, Array, Array]:
    """Return places, mean, and Student's 95 % band over seeds, as far as every seed comes."""
    curves = [(x, y) for x, y in map(curve, runs) if len(x)]
    if not curves:
        nothing = np.array([])
        return nothing, nothing, nothing, nothing
    end = min(x[-1] for x, _ in curves)
    longest = max((x for x, _ in curves), key=len)
    places = longest[longest <= end] if end == longest[-1] else np.linspace(0, end, POINTS)
    values = np.stack([np.interp(places, x, y) for x, y in curves])
    intervals = [student(values[:, i]) for i in range(len(places))]
    means, lows, highs = (
        np.array([getattr(i, f) for i in intervals]) for f in ("mean", "low", "high")
    )
    return places, means, lows, highs


def _draw(panel: Any, runs: Sequence[Run], curve: Curve, colour: Any, **style: Any) -> None:
    places, means, lows, highs = band(runs, curve)
    panel.plot(places, means, color=colour, **style)
    panel.fill_between(places, lows, highs, color=colour, alpha=0.15, lw=0)


def colours_of(arms: Sequence[str]) -> dict[str, Any]:
    """Return a colour for each arm."""
    colours = plt.get_cmap("tab10" if len(arms) <= 10 else "tab20")
    return {arm: colours(i % colours.N) for i, arm in enumerate(arms)}


def _chosen(arms: Arms) -> list[str]:
    """All arms of a small grid; of a larger one the main arms, or the first if it has none."""
    if len(arms) <= len(MAIN):
        return list(arms)
    return [arm for arm in MAIN if arm in arms] or list(arms)[: len(MAIN)]


def arms_figure(arms: Arms, against: str) -> Any:
    """Draw a panel for each arm: gold and proxy win rate, beside GRPO + BT's gold.

    Args:
        against: ``iteration`` or ``distance``.
    """
    make = by_iteration if against == "iteration" else by_distance
    columns = min(4, len(arms))
    rows = -(-len(arms) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 2.6 * rows), squeeze=False, layout="constrained",
        sharex=True, sharey=True,
    )  # fmt: skip
    for panel in axes.flatten()[len(arms) :]:
        panel.set_visible(False)
    for panel in axes.flatten()[len(arms) - columns : len(arms)]:
        panel.tick_params(labelbottom=True)  # nothing stands under it that would have them
    for panel, (arm, by_seed) in zip(axes.flatten(), arms.items(), strict=False):
        runs = list(by_seed.values())
        if BASELINE in arms and arm != BASELINE:
            places, means, *_ = band(list(arms[BASELINE].values()), make(metrics.EVAL_WIN_RATE))
            panel.plot(places, means, color="grey", lw=1, ls=":", label=name_of(BASELINE))
        _draw(panel, runs, make(metrics.EVAL_WIN_RATE), "tab:blue", label="gold")
        _draw(panel, runs, make(metrics.EVAL_PROXY_WIN_RATE), "tab:orange", ls="--", label="proxy")
        panel.set_title(f"{name_of(arm)} (n = {len(runs)})", fontsize=9)
        panel.set_ylim(0, 1)
        panel.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=7)
    figure.supxlabel("iteration" if against == "iteration" else "√KL to the starting policy, √nats")
    figure.supylabel("win rate over the starting policy")
    return figure


def main_figure(arms: Arms) -> Any:
    """Draw the gold of the main arms together, against iteration and against √KL."""
    chosen = _chosen(arms)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
    colours = colours_of(chosen)
    for arm in chosen:
        runs = list(arms[arm].values())
        _draw(
            left, runs, by_iteration(metrics.EVAL_WIN_RATE), colours[arm],
            marker="o", ms=3, label=name_of(arm),
        )  # fmt: skip
        _draw(right, runs, by_distance(metrics.EVAL_WIN_RATE), colours[arm])
    for panel, label in ((left, "iteration"), (right, "√KL to the starting policy, √nats")):
        panel.axhline(0.5, color="black", lw=0.7, ls=":")
        panel.set(xlabel=label, ylim=(0, 1))
        panel.grid(alpha=0.3)
    left.set_ylabel("gold win rate over the starting policy")
    left.legend(fontsize=8)
    return figure


def metric_panels(arms: Arms, titles: dict[str, str]) -> Any | None:
    """Draw a panel for each metric that was measured: the main arms against iteration."""
    chosen = _chosen(arms)
    runs = [run for arm in chosen for run in arms[arm].values()]
    shown = {m: t for m, t in titles.items() if any(m in run.columns for run in runs)}
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.4 * columns, 3 * rows), squeeze=False, layout="constrained"
    )
    colours = colours_of(chosen)
    for panel, (metric, title) in zip(axes.flatten(), shown.items(), strict=False):
        for arm in chosen:
            having = [run for run in arms[arm].values() if metric in run.columns]
            if having:
                _draw(panel, having, by_iteration(metric), colours[arm], label=name_of(arm))
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("iteration")
        panel.grid(alpha=0.3)
    for panel in axes.flatten()[len(shown) :]:
        panel.set_visible(False)
    axes[0, 0].legend(fontsize=7)
    return figure


def axes_figure(arms: Arms) -> Any | None:
    """Draw the gold's axes, each by itself."""
    names = gold_axes([run for by_seed in arms.values() for run in by_seed.values()])
    return metric_panels(arms, {name: name.rpartition("/")[2] for name in names})


def behaviour_figure(arms: Arms) -> Any | None:
    """Draw what else changes: distance, length, diversity, gold at equal length."""
    return metric_panels(
        arms,
        {
            metrics.EVAL_KL: "KL to the starting policy, nats per response",
            metrics.EVAL_RESPONSE_LENGTH: "response length, tokens",
            metrics.EVAL_DISTINCT_BIGRAMS: "distinct bigrams over answers",
            metrics.EVAL_LENGTH_CONTROLLED: "gold win rate at equal length",
            metrics.EVAL_PROXY_WIN_RATE: "proxy win rate",
        },
    )


def drift_figure(arms: Arms) -> Any | None:
    """Draw, for every monitored arm, drift over its threshold, and β."""
    measured = (metrics.DRIFT_DIVERGENCE, metrics.DRIFT_THRESHOLD)
    monitored = {
        arm: runs
        for arm, by_seed in arms.items()
        if (runs := [r for r in by_seed.values() if all(m in r.columns for m in measured)])
    }
    replayed = {
        arm: list(by_seed.values())
        for arm, by_seed in arms.items()
        if arm not in monitored
        and all(metrics.DRIFT_KL_COEF in r.columns for r in by_seed.values())
    }
    if not monitored:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    colours = colours_of([*monitored, *replayed])
    for arm, runs in monitored.items():
        places, means, *_ = band(runs, _drift_ratio)
        left.plot(places, means, color=colours[arm], label=name_of(arm))
    for arm, runs in (monitored | replayed).items():
        places, means, *_ = band(runs, by_iteration(metrics.DRIFT_KL_COEF))
        right.plot(places, means, color=colours[arm], label=name_of(arm))
    left.axhline(1, color="crimson", lw=1, ls="--")
    left.set(title="drift over its threshold, mean over seeds", xlabel="iteration")
    right.set(title="β, mean over seeds", xlabel="iteration")
    for panel in (left, right):
        panel.grid(alpha=0.3)
        panel.legend(fontsize=6)
    return figure


def _drift_ratio(run: Run) -> tuple[Array, Array]:
    steps, thresholds = run.values(metrics.DRIFT_THRESHOLD)
    drift = dict(zip(*run.values(metrics.DRIFT_DIVERGENCE), strict=True))
    return steps, np.array([drift[s] for s in steps]) / thresholds


def save(figure: Any, file: Path) -> Path:
    figure.savefig(file, dpi=90)
    plt.close(figure)
    return file
