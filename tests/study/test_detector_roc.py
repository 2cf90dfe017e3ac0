"""Detectors over runs: thresholds, curves and intervals, by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gprl_lightning.study.detector_roc import (
    Trace,
    area,
    detect,
    over_clusters,
    roc,
    threshold,
)
from tests.study import old_rules


def trace(cluster: str, values: list[float], limit: int | None = None) -> Trace:
    return Trace(cluster, np.array(values, float), limit)


HEALTHY = [trace(str(i), [0, float(i), 0]) for i in range(1, 5)]  # highest 1, 2, 3, 4
LOSSY = [trace("5", [0, 5, 0, 9], 3), trace("6", [0, 2.5, 9], 2), trace("7", [9], 0)]


def test_a_threshold_lets_a_share_of_the_healthy_runs_alarm():
    assert [threshold(HEALTHY, share) for share in (0, 0.24, 0.25, 0.5)] == [4, 4, 3, 2]
    assert threshold([], 0.1) == math.inf


def test_the_curve_by_hand():
    """Before their losses the lossy runs come to 5, 2.5 and nothing: of twelve pairs the first
    wins four, the second two."""
    assert area(HEALTHY + LOSSY) == pytest.approx(6 / 12)
    false, found = roc(HEALTHY + LOSSY)
    points = set(zip(false.tolist(), np.round(found * 3).tolist(), strict=True))
    assert points == {(0, 0), (0, 1), (0.25, 1), (0.5, 1), (0.5, 2), (0.75, 2), (1, 2)}
    assert math.isnan(area(HEALTHY))


def test_detection_by_hand():
    """At a quarter of false alarms the lossy runs' threshold is 3: the first is found two steps
    before its loss. The healthy runs' own are of the other three, and none may exceed those: 4 for
    the first three, 3 for the last, which alarms."""
    found = detect(HEALTHY + LOSSY, 0.25)
    assert (found.healthy, found.lossy) == (4, 3)
    assert (found.false_alarms, found.in_time) == (0.25, pytest.approx(1 / 3))
    assert found.lead == 2


def test_the_area_is_that_under_the_curve():
    rng = np.random.default_rng(0)
    traces = [trace(str(i), [rng.normal()]) for i in range(30)]
    traces += [trace(str(30 + i), [rng.normal(0.8), 99], 1) for i in range(30)]
    false, found = roc(traces)
    below = float((np.diff(false) * (found[1:] + found[:-1]) / 2).sum())
    assert area(traces) == pytest.approx(below)


def test_one_rule_makes_false_alarms_equal_where_each_statistic_s_own_did_not():
    """Two statistics of healthy runs, one that stands still and one that climbs with learning:
    thresholds from a run's own first ten steps are right for the one and alarm in nearly all runs
    of the other; those set on other runs are right for both."""
    rng = np.random.default_rng(0)
    steps = np.arange(80)
    for slope in (0.0, 0.05):
        runs = [slope * steps * rng.uniform(0.5, 1.5) + rng.normal(0, 1, 80) for _ in range(60)]
        own = [run[10:].max() > run[:10].mean() + 3.5 * run[:10].std(ddof=1) for run in runs]
        assert (np.mean(own) > 0.5) == (slope > 0)
        traces = [Trace(str(i), run, None) for i, run in enumerate(runs)]
        assert detect(traces, 0.1).false_alarms == pytest.approx(0.1, abs=0.05)


def _clustered(rng: np.random.Generator) -> list[Trace]:
    """Twelve pools with eight streams of either kind, which share most of what they are."""
    traces = []
    for pool in range(12):
        shared = rng.normal(0, 1, 2)
        for lossy, level in enumerate(shared):
            values = level + lossy + rng.normal(0, 0.3, 8)
            traces += [trace(str(pool), [v], 1 if lossy else None) for v in values]
    return traces


def test_streams_of_one_pool_are_no_trials_of_their_own():
    """Wilson's interval of the share above a threshold misses the truth in most studies; that over
    clusters, of the area, holds it."""
    rng = np.random.default_rng(0)
    big = [t for _ in range(30) for t in _clustered(rng)]
    truth, share = area(big), np.mean([t.highest > 1 for t in big if t.limit == 1])
    wilson = clustered = 0
    for _ in range(40):
        traces = _clustered(rng)
        lossy = [t for t in traces if t.limit == 1]
        low, high = old_rules.wilson(sum(t.highest > 1 for t in lossy), len(lossy))
        wilson += low <= share <= high
        found = over_clusters(traces, area)
        clustered += found.low <= truth <= found.high
    assert wilson < 0.7 * 40
    assert clustered > 0.85 * 40


def test_too_few_clusters_have_no_interval():
    found = over_clusters(HEALTHY[:1] + LOSSY[:1], area)
    assert found.mean == 1 and math.isnan(found.low)


def test_a_clock_tells_nothing_apart():
    """Runs of one length: it alarms in all of them or in none."""
    steps = list(range(80))
    traces = [trace(str(i), steps) for i in range(10)]
    traces += [trace(str(10 + i), steps, 40 + i) for i in range(10)]
    assert area(traces) == 0 and detect(traces, 0.1).in_time == 0
