"""Arms by their seeds, and two arms compared seed by seed: at equal step and at equal √KL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gprl_lightning.study.bootstrap import Interval, Verdict, cautious, combined, student, verdict
from gprl_lightning.study.claims import Claim
from gprl_lightning.study.curves import (
    CurveSummary,
    common_distance,
    mean_over_distance,
    summarize_curve,
)
from gprl_lightning.study.runs import Run
from gprl_lightning.tracking import metrics

Array = NDArray[np.float64]
Arms = dict[str, dict[int, Run]]  # by arm, then by seed


@dataclass(frozen=True)
class Compared:
    """One claim's differences, arm less other, over common seeds; of gold win rates in [0, 1].

    Attributes:
        claim: what was compared.
        seeds: that both arms have.
        final: at the horizon (`CurveSummary.final`).
        distance: mean over the far half of the √KL range that both come to.
        over_distance: mean over all of that range.
        area: mean over iterations.
        kept: of the share of peak gold that is kept.
        at_step, at_distance, verdict: what `final` and `distance` say, and both together.
    """

    claim: Claim
    seeds: tuple[int, ...]
    final: Interval
    distance: Interval
    over_distance: Interval
    area: Interval
    kept: Interval
    at_step: Verdict
    at_distance: Verdict
    verdict: Verdict


def by_arm(runs: Sequence[Run]) -> Arms:
    """The runs by arm, in the order given, then by seed."""
    arms: Arms = {}
    for run in runs:
        arms.setdefault(run.arm, {})[run.seed] = run
    return arms


def gold_summary(run: Run) -> CurveSummary:
    return summarize_curve(*run.values(metrics.EVAL_WIN_RATE))


def over_seeds(runs: Sequence[Run], value: Callable[[Run], float]) -> Interval:
    """Mean over the runs that measured it, with Student's interval; NaN where none did."""
    values = np.array([value(run) for run in runs])
    return student(values[~np.isnan(values)])


def compare(arms: Arms, claim: Claim) -> Compared:
    """One claim, over the seeds that both arms have.

    Raises:
        ValueError: the arms have no seed in common.
    """
    one, other = arms[claim.arm], arms[claim.against]
    seeds = tuple(sorted(one.keys() & other.keys()))
    if not seeds:
        raise ValueError(f"{claim.arm} and {claim.against}: expected a seed that both have.")
    pairs = [(one[seed], other[seed]) for seed in seeds]
    summaries = [(gold_summary(a), gold_summary(b)) for a, b in pairs]
    distances = np.array([_at_equal_distance(a, b) for a, b in pairs])
    final = np.array([a.final - b.final for a, b in summaries])
    at_step, at_equal = verdict(final), verdict(distances[:, 0])
    return Compared(
        claim=claim,
        seeds=seeds,
        final=cautious(final),
        distance=cautious(distances[:, 0]),
        over_distance=cautious(distances[:, 1]),
        area=cautious(np.array([a.area - b.area for a, b in summaries])),
        kept=cautious(np.array([a.kept - b.kept for a, b in summaries])),
        at_step=at_step,
        at_distance=at_equal,
        verdict=combined(at_step, at_equal),
    )


def _at_equal_distance(first: Run, second: Run) -> tuple[float, float]:
    """The difference in mean gold over the far half of the common √KL range, and over all of it."""
    until = common_distance(first.distance(), second.distance())
    curves = [(run.distance(), run.values(metrics.EVAL_WIN_RATE)[1]) for run in (first, second)]
    far, whole = (
        [mean_over_distance(distance, gold, start, until) for distance, gold in curves]
        for start in (until / 2, 0.0)
    )
    return far[0] - far[1], whole[0] - whole[1]
