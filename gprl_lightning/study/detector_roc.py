"""How well a statistic tells runs that lose gold from healthy ones, at equal false alarms per run.

A monitor alarms in a run or does not: its steps are not trials of their own. The threshold of every
statistic is set by one rule, on the healthy runs of other clusters: the lowest that at most a given
share of them ever exceeds. A cluster is what shares a preference model, and so a seed. Ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import numpy as np

from gprl_lightning.study.intervals import Array, Interval

RESAMPLES = 1000


@dataclass(frozen=True)
class Trace:
    """A statistic over one run.

    Attributes:
        cluster: that the run belongs to.
        statistic: by step; alarms are steps above a threshold.
        limit: the step at which the gold is lost; None of a healthy run.
    """

    cluster: str
    statistic: Array
    limit: int | None

    @cached_property
    def highest(self) -> float:
        """The highest value of a healthy run; of a lossy one, of the steps before its loss."""
        return float(np.max(self.statistic[: self.limit], initial=-math.inf))

    def first_alarm(self, threshold: float) -> int | None:
        """Return the first step above a threshold."""
        steps = np.flatnonzero(self.statistic > threshold)
        return int(steps[0]) if len(steps) else None


@dataclass(frozen=True)
class Detection:
    """What a statistic finds at thresholds that were set on other clusters.

    Attributes:
        healthy, lossy: runs.
        false_alarms: share of healthy runs with an alarm.
        in_time: share of lossy runs with an alarm before their loss.
        lead: median steps from that alarm to the loss; NaN if there is none.
    """

    healthy: int
    lossy: int
    false_alarms: float
    in_time: float
    lead: float


def threshold(healthy: Sequence[Trace], share: float) -> float:
    """Return the lowest threshold that at most a share of the healthy runs ever exceeds; of no
    runs, one that none could."""
    highest = sorted((trace.highest for trace in healthy), reverse=True)
    exceeding = math.floor(share * len(highest) + 1e-9)
    return highest[exceeding] if highest else math.inf


def detect(traces: Sequence[Trace], share: float) -> Detection:
    """Set each cluster's threshold on the others, and count what it finds there."""
    alarms: dict[bool, list[bool]] = {True: [], False: []}
    leads: list[int] = []
    healthy = [trace for trace in traces if trace.limit is None]
    levels = {
        cluster: threshold([t for t in healthy if t.cluster != cluster], share)
        for cluster in {trace.cluster for trace in traces}
    }
    for trace in traces:
        level = levels[trace.cluster]
        alarmed = trace.highest > level
        alarms[trace.limit is None].append(alarmed)
        first = trace.first_alarm(level)
        if alarmed and trace.limit is not None and first is not None:
            leads.append(trace.limit - first)
    return Detection(
        healthy=len(alarms[True]),
        lossy=len(alarms[False]),
        false_alarms=float(np.mean(alarms[True])) if alarms[True] else math.nan,
        in_time=float(np.mean(alarms[False])) if alarms[False] else math.nan,
        lead=float(median(leads)) if leads else math.nan,
    )


def roc(traces: Sequence[Trace]) -> tuple[Array, Array]:
    """Return (false alarms per healthy run, lossy runs alarmed in time) as the threshold falls."""
    healthy, lossy = _highest(traces)
    levels = np.array([math.inf, *np.unique(np.concatenate([healthy, lossy]))[::-1], -math.inf])
    false = [float((healthy > level).mean()) for level in levels]
    found = [float((lossy > level).mean()) for level in levels]
    return np.array(false), np.array(found)


def area(traces: Sequence[Trace]) -> float:
    """Return the area under `roc`: the chance that a lossy run was higher before its loss than a
    healthy run ever, ties counting half (Mann and Whitney 1947). NaN unless there are both."""
    healthy, lossy = _highest(traces)
    if not len(healthy) or not len(lossy):
        return math.nan
    order = np.sign(_finite(lossy)[:, None] - _finite(healthy)[None])
    return float((order / 2 + 0.5).mean())


def over_clusters(
    traces: Sequence[Trace], value: Callable[[Sequence[Trace]], float], seed: int = 0
) -> Interval:
    """Return a value of all traces with its percentile interval over resampled clusters.

    No bounds (NaN) of fewer than three clusters: streams that share one pool are one cluster.
    """
    clusters = [[t for t in traces if t.cluster == c] for c in sorted({t.cluster for t in traces})]
    if len(clusters) < 3:
        return Interval(value(traces), math.nan, math.nan)
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        chosen = rng.integers(0, len(clusters), len(clusters))
        drawn.append(value([trace for place in chosen for trace in clusters[place]]))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Interval(value(traces), float(low), float(high))


def _highest(traces: Sequence[Trace]) -> tuple[Array, Array]:
    healthy = np.array([t.highest for t in traces if t.limit is None])
    return healthy, np.array([t.highest for t in traces if t.limit is not None])


def _finite(values: Array) -> Array:
    """A run that was lost at its very first step has no highest value: below every other."""
    return np.maximum(values, -1e300)
