"""Arms by their seeds, and two arms compared seed by seed: two questions, two verdicts.

*A better frontier*: more gold at equal √KL. *A better stop*: more gold at the horizon than the
other arm under a fixed β, a clock and a KL trigger that were chosen on other seeds. An arm can have
either without the other: one that only stops in time has the other's frontier.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gprl_lightning.study.claims import Claim
from gprl_lightning.study.curves import (
    CurveSummary,
    common_distance,
    mean_over_distance,
    summarize_curve,
)
from gprl_lightning.study.intervals import LEVEL, Interval, student
from gprl_lightning.study.runs import Run
from gprl_lightning.study.stopping import at_horizon, stops
from gprl_lightning.study.verdicts import Paired, Verdict, against_all, judge
from gprl_lightning.tracking import metrics

Array = NDArray[np.float64]
Arms = dict[str, dict[int, Run]]  # by arm, then by seed


@dataclass(frozen=True)
class Compared:
    """One claim's differences, arm less other, over common seeds; of gold win rates in [0, 1].

    Attributes:
        claim: what was compared.
        seeds: that both arms have and that chose nothing.
        frontier: in mean gold over the far half of the √KL range that both come to.
        horizon: in gold at the horizon, the other as it is.
        stops: likewise, the other under each simple stop, by the stop's name.
        stop: what `stops` say together.
    """

    claim: Claim
    seeds: tuple[int, ...]
    frontier: Paired
    horizon: Paired
    stops: dict[str, Paired]
    stop: Verdict


def by_arm(runs: Sequence[Run]) -> Arms:
    """Return the runs by arm, in the order given, then by seed."""
    arms: Arms = {}
    for run in runs:
        arms.setdefault(run.arm, {})[run.seed] = run
    return arms


def gold_summary(run: Run) -> CurveSummary:
    """Return a run's gold curve in numbers."""
    proxy = run.values(metrics.EVAL_PROXY_WIN_RATE)[1]
    return summarize_curve(
        *run.values(metrics.EVAL_WIN_RATE), run.halves(), proxy if len(proxy) else None
    )


def over_seeds(runs: Sequence[Run], value: Callable[[Run], float]) -> Interval:
    """Return the mean over the runs that measured it, with Student's interval; NaN if none did."""
    values = np.array([value(run) for run in runs])
    return student(values[~np.isnan(values)])


def common_seeds(arms: Arms, claim: Claim, tuning: Collection[int] = ()) -> tuple[int, ...]:
    """Return the seeds on which a claim can be judged."""
    both = arms[claim.arm].keys() & arms[claim.against].keys()
    return tuple(sorted(both - {*tuning}))


def compare(
    arms: Arms, claim: Claim, tuning: Collection[int] = (), level: float = LEVEL
) -> Compared:
    """Compare one claim's arms over the seeds that both have.

    Args:
        arms: of the grid.
        claim: names two of them.
        tuning: seeds that choose the simple stops and are not compared; without them each seed's
            stops are chosen on all others.
        level: of the tests, two-sided.

    Raises:
        ValueError: the arms have no seed in common.
    """
    seeds = common_seeds(arms, claim, tuning)
    if not seeds:
        raise ValueError(f"{claim.arm} and {claim.against}: expected a seed that both have.")
    one, other = arms[claim.arm], arms[claim.against]
    ends = {seed: at_horizon(one[seed]) for seed in seeds}

    def judged(values: dict[int, float]) -> Paired:
        return judge(np.array([ends[s] - values.get(s, np.nan) for s in seeds]), level)

    found = {name: judged(gold) for name, gold in stops(arms, claim.against, tuning).items()}
    distances = np.array([_at_equal_distance(one[seed], other[seed]) for seed in seeds])
    return Compared(
        claim=claim,
        seeds=seeds,
        frontier=judge(distances, level),
        horizon=judged({seed: at_horizon(other[seed]) for seed in seeds}),
        stops=found,
        stop=against_all(paired.verdict for paired in found.values()),
    )


def _at_equal_distance(first: Run, second: Run) -> float:
    """Return the difference in mean gold over the far half of the common √KL range."""
    until = common_distance(first.distance(), second.distance())
    far = [
        mean_over_distance(run.distance(), run.values(metrics.EVAL_WIN_RATE)[1], until / 2, until)
        for run in (first, second)
    ]
    return far[0] - far[1]
