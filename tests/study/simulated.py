"""Simulated studies: runs whose true gold is known, judged with an evaluation's noise."""

from __future__ import annotations

import numpy as np

from gprl_lightning.study.comparison import Arms
from gprl_lightning.study.runs import Run
from gprl_lightning.tracking import metrics

ITERATIONS = np.arange(0, 81, 10)
COMPARISONS = 200


def run(arm: str, seed: int, gold: np.ndarray, distance: np.ndarray, **columns) -> Run:
    """A run as if read from its folder."""
    found = {metrics.EVAL_WIN_RATE: gold, metrics.EVAL_KL: distance**2, **columns}
    steps = ITERATIONS[: len(gold)].tolist()
    return Run(arm, seed, {name: (steps, [*map(float, v)]) for name, v in found.items()}, {})


def halves(true: np.ndarray, rng: np.random.Generator, comparisons: int = COMPARISONS):
    """What the two halves of an evaluation's comparisons say of a true gold curve."""
    half = comparisons // 2
    return tuple(rng.binomial(half, np.clip(true, 0, 1)) / half for _ in range(2))


def rise_and_fall(peak: float, until: np.ndarray = ITERATIONS) -> np.ndarray:
    """True gold: from .5 straight up to .75 at the peak, then down by .11 in ten iterations."""
    up = 0.5 + 0.25 * until / peak
    return np.where(until <= peak, up, np.maximum(0.75 - 0.011 * (until - peak), 0.05))


def stopping_study(rng: np.random.Generator, seeds: int, stop: str) -> Arms:
    """`hacked` rises and falls, each seed at a time and a speed of its own; `stops` follows the
    same curve, evaluation by evaluation, and stands still from some time on.

    Args:
        rng: of everything.
        seeds: how many.
        stop: ``in time``, each seed at its own peak, or ``by clock``, all at iteration 40.
    """
    arms: Arms = {"hacked": {}, "stops": {}}
    for seed in range(seeds):
        peak, speed = float(rng.choice([20, 30, 40, 50, 60])), rng.uniform(0.06, 0.14)
        noise = rng.normal(0, 0.035, (2, len(ITERATIONS)))
        end = {"in time": peak, "by clock": 40.0}[stop]
        stopped = np.minimum(ITERATIONS, end)
        own = np.where(end >= ITERATIONS, noise[0], noise[1])  # one and the same run until then
        hacked = rise_and_fall(peak) + noise[0]
        arms["hacked"][seed] = run("hacked", seed, hacked, speed * ITERATIONS)
        arms["stops"][seed] = run(
            "stops", seed, rise_and_fall(peak, stopped) + own, speed * stopped
        )
    return arms
