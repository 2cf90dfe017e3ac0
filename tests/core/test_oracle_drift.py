"""The package against `tests.oracle_drift`: METHOD §3, the monitor and its controller."""

from __future__ import annotations

import random
from dataclasses import asdict
from itertools import product
from typing import get_args

import pytest

from gprl_lightning.core.drift import (
    AxisMoments,
    DriftSettings,
    DriftState,
    Intervention,
    axis_moments,
    bootstrap_threshold,
    divergence,
    replay,
    update_drift,
    variance_share,
)
from gprl_lightning.core.options import Guard, Mode, Share
from gprl_lightning.core.preference import axis_pairs, group_scores, scores_against
from tests import oracle
from tests import oracle_drift as drift
from tests.core.examples import KINDS, batch, close, double, gates

AXES = (1, 2, 3, 4)
MODES, GUARDS = get_args(Mode), get_args(Guard)
CALIBRATION = 4


# Statistics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "axes", "share"), product(KINDS, AXES, get_args(Share)))
def test_variance_share(kind: str, axes: int, share: str) -> None:
    groups, rows = batch(kind, axes), gates(axes)
    expected = drift.variance_share([oracle.group_scores(g) for g in groups], rows, share, 0.05)
    none = double([0.0] * len(rows))
    moments = axis_moments(
        group_scores(axis_pairs(double(groups))), double(rows), share, None, none
    )
    close(variance_share(moments, 0.05), expected)


def test_variance_share_is_floored() -> None:
    """0 and 9 and 1 of 10 with a floor of 0.05 are (0.05, 0.9, 0.1) / 1.05."""
    moments = AxisMoments(double([0.0, 9.0, 1.0]), None, double(0.0), double(2.0))
    close(variance_share(moments, 0.05), [0.05 / 1.05, 0.9 / 1.05, 0.1 / 1.05])
    assert drift.floored([0.0, 0.9, 0.1], 0.05) == pytest.approx([1 / 21, 18 / 21, 2 / 21])


@pytest.mark.parametrize("axes", AXES)
def test_anchored_statistic(axes: int) -> None:
    groups, anchors = batch("random", axes), [group[0] for group in batch("cyclic", axes)]
    scores = scores_against(axis_pairs(double(groups)), axis_pairs(double(anchors))[:, None])
    moments = axis_moments(
        group_scores(axis_pairs(double(groups))),
        double(gates(axes)),
        "raw",
        scores.mean((1, 2)),
        double([0.0] * len(groups)),
    )
    close(moments.anchored_score(), drift.anchored_statistic(groups, anchors))


@pytest.mark.parametrize(
    ("share", "nats"), [((0.5, 0.25, 0.25), 0.059), ((0.7, 0.15, 0.15), 0.280)]
)
def test_divergence_from_uniform(share: tuple[float, ...], nats: float) -> None:
    """The two numbers that METHOD §3 gives for scale."""
    uniform = [1 / 3] * 3
    assert drift.divergence(share, uniform) == pytest.approx(nats, abs=5e-4)
    close(divergence(double(share), double(uniform)), drift.divergence(share, uniform))


@pytest.mark.parametrize(("ema", "quantile"), [(0.9, 0.99), (0.9, 0.9), (0.5, 0.9), (0.0, 0.9)])
def test_automatic_threshold(ema: float, quantile: float) -> None:
    """Other random numbers than the package's, so equal within what 1,000 resamples allow."""
    rng = random.Random(0)
    shares = [drift.floored([rng.uniform(0.2, 0.5) for _ in range(3)], 1e-3) for _ in range(10)]
    resamples = [(rng.choices(range(10), k=10), rng.choices(range(10), k=60)) for _ in range(1000)]
    expected = drift.bootstrap_threshold(shares, ema, quantile, resamples)
    found = bootstrap_threshold(double(shares), ema, quantile)
    assert found == pytest.approx(expected, rel=0.2)
    assert bootstrap_threshold(double(shares), ema, quantile) == found


# The controller -----------------------------------------------------------------------------------


def story(axes: int, drifting: int = 14, returning: int = 20) -> tuple[list, list]:
    """Raw shares and anchored scores: calibration, then axis 0 takes over, then all is as before.

    The last axis saturates at the same time: its share falls, while its anchored score rises.
    """
    rng = random.Random(axes)

    def share(weights: list[float]) -> list[float]:
        noisy = [weight * rng.uniform(0.9, 1.1) for weight in weights]
        return [value / sum(noisy) for value in noisy]

    calm = [1.0 + 0.2 * axis for axis in range(axes)]
    taken = [9.0, *calm[1:-1], 1e-5][:axes]
    phases = [(calm, CALIBRATION, 0.0), (taken, drifting, 0.9), (calm, returning, 0.0)]
    shares = [share(weights) for weights, steps, _ in phases for _ in range(steps)]
    anchored = [
        [rng.uniform(-0.05, 0.05)] * (axes - 1) + [rise + rng.uniform(-0.05, 0.05)]
        for _, steps, rise in phases
        for _ in range(steps)
    ]
    return shares, anchored


def run(settings: DriftSettings, shares: list, anchored: list) -> tuple[list, list[Intervention]]:
    """The states after calibration, and the log. Each step is a batch of three groups."""
    state = DriftState.initial(settings, len(shares[0]))
    states, log = [], []
    for share, score in zip(shares, anchored, strict=True):
        moments = AxisMoments(0.7 * double(share), 3 * double(score), double(0.0), double(3.0))
        state, control, record = update_drift(state, moments, settings)
        assert control.axis_multipliers.tolist() == list(state.multipliers)
        assert control.kl_coef == state.kl_coef
        states.append(state)
        log += [record] if record is not None else []
    rest = states[:CALIBRATION]
    assert all(s.multipliers == (1.0,) * len(shares[0]) for s in rest)
    assert all(s.kl_coef == settings.kl_coef for s in rest)
    return states[CALIBRATION:], log


def settings_pair(**options: object) -> tuple[DriftSettings, drift.Controller]:
    chosen = {"threshold": 0.05, "calibration_steps": CALIBRATION, **options}
    ours = drift.Controller(**chosen)
    return DriftSettings(**asdict(ours)), ours


def assert_same_path(
    options: dict, shares: list, anchored: list, atol: float = 1e-9
) -> list[drift.Step]:
    theirs, ours = settings_pair(**options)
    states, log = run(theirs, shares, anchored)
    path = drift.control(ours, [drift.floored(s, theirs.share_floor) for s in shares], anchored)
    for state, step in zip(states, path, strict=True):
        assert state.variance_share == pytest.approx(step.share, abs=1e-9)
        assert state.drift == pytest.approx(step.drift, abs=1e-9)
        assert state.active == (step.drift > ours.threshold)
        assert state.multipliers == pytest.approx(step.multipliers, abs=atol)
        assert state.kl_coef == pytest.approx(step.kl_coef, abs=atol)
    controls = replay(log, theirs, len(shares[0]))
    assert [c.kl_coef for c in controls] == [record.kl_coef_after for record in log]
    if log:
        close(controls[-1].axis_multipliers, log[-1].multipliers_after)
    return path


@pytest.mark.parametrize(("mode", "guard", "axes"), product(MODES, GUARDS, AXES))
def test_controller(mode: str, guard: str, axes: int) -> None:
    """With two axes, one of them held by the guard, the other has nothing to share k with."""
    path = assert_same_path({"mode": mode, "guard": guard}, *story(axes))
    free = axes - (guard == "anchored")
    moved = any(max(step.multipliers) > 1.01 for step in path)
    raised = any(step.kl_coef > 0.0201 for step in path)
    assert moved == (free > 1 and mode in ("full", "reweight_only"))
    assert raised == (axes > 1 and mode in ("full", "kl_only"))


@pytest.mark.parametrize(
    "options",
    [
        {"ema": 0.0},
        {"reweight_rate": 0.1},
        {"multiplier_bound": 1.2},
        {"reweight": "down"},
        {"reweight": "down", "guard": "anchored"},
        {"kl_gain": 2.0},
        {"kl_bound": 1.3},
        {"return_rate": 0.5},
        {"guard": "anchored", "guard_margin": 0.6},
        {"kl_coef": 0.3, "threshold": 0.2},
    ],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize("axes", [2, 3, 4])
def test_controller_with_other_constants(options: dict, axes: int) -> None:
    assert_same_path(options, *story(axes))


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_controller_under_a_drift_that_stays(axes: int) -> None:
    """Multipliers and the KL coefficient come to their bounds, and never leave them."""
    path = assert_same_path({}, *story(axes, drifting=80, returning=0))
    for step in path:
        assert sum(step.multipliers) == pytest.approx(axes)
        assert min(step.multipliers) >= 0.25 - 1e-12
        assert max(step.multipliers) <= 4 + 1e-12
        assert 0.02 <= step.kl_coef <= 0.2
    assert path[-1].multipliers[0] == pytest.approx(0.25)
    assert path[-1].kl_coef == pytest.approx(0.2)


def test_controller_comes_back_to_rest() -> None:
    """Exponentially, as the oracle does; the package then lands on rest itself, within 1e-6."""
    shares, anchored = story(3, drifting=8, returning=420)
    assert_same_path({}, shares, anchored, atol=2e-6)
    states, _ = run(settings_pair()[0], shares, anchored)
    assert states[-1].multipliers == (1.0, 1.0, 1.0)
    assert states[-1].kl_coef == 0.02


def test_guard_keeps_a_saturated_axis_from_being_pushed_up() -> None:
    shares, anchored = story(3)
    free = drift.control(settings_pair()[1], shares, anchored)
    held = assert_same_path({"guard": "anchored"}, shares, anchored)
    assert max(step.multipliers[2] for step in free) > 1.5
    assert max(step.multipliers[2] for step in held) < max(step.multipliers[2] for step in free)
