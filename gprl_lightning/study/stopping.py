"""The stops that cost nothing: a fixed β, a clock, a KL trigger, each chosen on other seeds. Ours.

An arm that follows another's gold curve and stops in time ends with more gold. So does the other,
if one knows when to stop it. What a monitor is worth is therefore its gold at the horizon less that
of the other arm under the best of such simple stops, chosen where the monitor had no part: on
tuning seeds, or else on all seeds but the one it is read on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from gprl_lightning.study.curves import ending
from gprl_lightning.study.runs import Run
from gprl_lightning.tracking import metrics

Runs = Mapping[int, Run]  # by seed
Gold = dict[int, float]  # by seed
BETA = "algorithm.kl_coef="
FIXED_BETA, CLOCK, KL_TRIGGER = "best fixed β", "clock", "KL trigger"
THRESHOLDS = 40  # of √KL that a trigger may have, up to the furthest run's


def stops(arms: Mapping[str, Runs], arm: str, tuning: Collection[int] = ()) -> dict[str, Gold]:
    """Return the gold that each simple stop brings an arm, by seed.

    Args:
        arms: of the grid; those that differ from ``arm`` in β alone are its fixed β.
        arm: that is to be stopped.
        tuning: seeds that choose for all others; without them each seed is chosen for by the rest.
    """
    runs = arms[arm]
    times = sorted({float(t) for run in runs.values() for t in _gold(run)[0]})
    furthest = max(float(run.distance().max()) for run in runs.values())
    thresholds = furthest * np.arange(1, THRESHOLDS + 1) / THRESHOLDS
    same = [other for other in arms if _without_beta(other) == _without_beta(arm)]
    options = {
        FIXED_BETA: [_by_seed(arms[other], at_horizon) for other in same],
        CLOCK: [_by_seed(runs, lambda run, t=t: stopped_at(run, t)) for t in times],
        KL_TRIGGER: [_by_seed(runs, lambda run, c=c: stopped_beyond(run, c)) for c in thresholds],
    }
    return {name: chosen_elsewhere(found, tuning) for name, found in options.items()}


def at_horizon(run: Run) -> float:
    """Return the gold where the run ends."""
    return ending(_gold(run)[1])


def stopped_at(run: Run, iteration: float) -> float:
    """Return the gold of a run that is stopped at an iteration."""
    iterations, values = _gold(run)
    return ending(values[iterations <= iteration])


def stopped_beyond(run: Run, distance: float) -> float:
    """Return the gold of a run that is stopped at the first evaluation at or beyond a √KL; at its
    horizon if it never comes so far."""
    beyond = np.flatnonzero(run.distance() >= distance)
    values = _gold(run)[1]
    return ending(values[: beyond[0] + 1] if len(beyond) else values)


def chosen_elsewhere(options: list[Gold], tuning: Collection[int] = ()) -> Gold:
    """Return each seed's value of the option that is best, in the mean, on other seeds.

    Only seeds that every option has are looked at. Of equals the first option is taken.

    Args:
        options: values by seed.
        tuning: seeds that choose, and are not chosen for; without them every seed is chosen for by
            all others.
    """
    seeds = set.intersection(*(set(values) for values in options))
    found: Gold = {}
    for seed in sorted(seeds - {*tuning}):
        others = sorted(seeds & {*tuning} if tuning else seeds - {seed})
        if others:
            means = [np.mean([values[other] for other in others]) for values in options]
            found[seed] = options[int(np.argmax(means))][seed]
    return found


def _gold(run: Run) -> tuple[Any, Any]:
    return run.values(metrics.EVAL_WIN_RATE)


def _by_seed(runs: Runs, value: Callable[[Run], float]) -> Gold:
    return {seed: value(run) for seed, run in runs.items()}


def _without_beta(arm: str) -> str:
    return " ".join(part for part in arm.split(" ") if not part.startswith(BETA))
