"""What the drift monitor measures, its calibration, and its memory: resumed and replayed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

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
from tests.core.drift_runs import QUICK, UNIFORM, double, eventful, moments, noisy, play

# What is measured ---------------------------------------------------------------------------------


def test_moments_by_hand() -> None:
    """Stds (1, 2) in group one and (3, 0) in group two: squares sum to (10, 4).

    Weighted by λ² = (1/4, 1/4) and (1, 0): (1/4 + 9, 1) .
    """
    scores = torch.tensor([[[1.0, 2.0], [-1.0, -2.0]], [[3.0, 5.0], [-3.0, 5.0]]])
    eigenvalues = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    anchored, surprise = torch.tensor([[1.0, 0.0], [3.0, 1.0]]), torch.tensor([0.5, 1.0])
    raw = axis_moments(scores, eigenvalues, "raw", anchored, surprise)
    assert raw.variance_sum.tolist() == [10.0, 4.0] and raw.count.item() == 2.0
    assert raw.anchored_score().tolist() == [2.0, 0.5] and raw.surprise().item() == 0.75
    weighted = axis_moments(scores, eigenvalues, "weighted", None, surprise)
    assert weighted.variance_sum.tolist() == [9.25, 1.0]
    assert weighted.anchored_sum is None and weighted.anchored_score() is None


def test_moments_of_processes_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 5, 3, generator=generator)
    gates, anchored = torch.rand(4, 3, generator=generator), torch.rand(4, 3, generator=generator)
    surprise = torch.rand(4, generator=generator)
    given = (scores, gates, anchored, surprise)
    whole = _weighted(*given)
    parts = [_weighted(*(values[i] for values in given)) for i in ([0], [1, 2, 3])]
    packed: list[Tensor] = []
    for part in parts:
        part.summed(lambda sums: packed.append(sums) or sums)
    total = parts[0].summed(lambda _: packed[0] + packed[1])
    torch.testing.assert_close(total.variance_sum, whole.variance_sum)
    torch.testing.assert_close(total.anchored_sum, whole.anchored_sum)
    torch.testing.assert_close(total.surprise_sum, whole.surprise_sum)
    assert total.count.item() == 4.0
    bare = replace(whole, anchored_sum=None).summed(lambda sums: 2 * sums)
    assert bare.anchored_sum is None and bare.count.item() == 8.0
    torch.testing.assert_close(bare.variance_sum, 2 * whole.variance_sum)
    torch.testing.assert_close(bare.surprise_sum, 2 * whole.surprise_sum)


def _weighted(scores: Tensor, gates: Tensor, anchored: Tensor, surprise: Tensor) -> AxisMoments:
    return axis_moments(scores, gates, "weighted", anchored, surprise)


def test_share_is_floored_and_on_the_simplex() -> None:
    """Of variances 1 and 0 with floor 0.1: (1, 0.1) / 1.1."""
    found = variance_share(moments((1.0, 0.0)), 0.1)
    assert found.tolist() == pytest.approx([1 / 1.1, 0.1 / 1.1])
    assert variance_share(moments((0.0, 0.0)), 1e-3).tolist() == [0.5, 0.5]


def test_divergence_for_scale() -> None:
    """The two reference values for three axes, from uniform; and a share of 0 adds nothing."""
    uniform = double([1 / 3] * 3)
    shares = double([[0.5, 0.25, 0.25], [0.7, 0.15, 0.15], [1.0, 0.0, 0.0]])
    found = divergence(shares, uniform).tolist()
    assert found == pytest.approx([0.059, 0.280, math.log(3)], abs=5e-4)
    assert divergence(uniform, uniform).item() == 0.0


# The automatic threshold --------------------------------------------------------------------------


def test_threshold_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    shares = torch.softmax(torch.randn(10, 3, generator=torch.Generator().manual_seed(0)), -1)
    torch.manual_seed(1)
    expected_draw = torch.rand(1)
    torch.manual_seed(1)
    found = bootstrap_threshold(shares, 0.9, 0.99)
    assert torch.equal(torch.rand(1), expected_draw)
    torch.manual_seed(2)
    assert bootstrap_threshold(shares, 0.9, 0.99) == found


def test_threshold_rises_with_the_noise_and_falls_with_the_smoothing() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(10, 3, generator=generator, dtype=torch.float64) - 0.5

    def threshold(scale: float, ema: float = 0.9, quantile: float = 0.99) -> float:
        shares = 1 + scale * noise
        return bootstrap_threshold(shares / shares.sum(-1, keepdim=True), ema, quantile)

    assert threshold(0.4) > 3 * threshold(0.2)  # the divergence is of second order
    assert threshold(0.4, ema=0.0) > 2 * threshold(0.4)
    assert threshold(0.4, quantile=0.5) < threshold(0.4) / 2


def test_threshold_of_equal_batches_is_positive() -> None:
    shares = double([[0.5, 0.5]] * 10)
    assert 0 < bootstrap_threshold(shares, 0.9, 0.99) < 1e-5


def test_threshold_keeps_false_alarms_rare() -> None:
    """20 runs that do not drift, 150 steps each, with thresholds of their own.

    Few steps are above; without the uncertainty of α(0) more than one in five would be.
    """
    settings = DriftSettings(mode="monitor_only")
    alarms = [
        state.active
        for seed in range(20)
        for state in play(settings, noisy(150, seed=seed))[0][settings.calibration_steps :]
    ]
    assert sum(alarms) / len(alarms) < 0.08


# Calibration --------------------------------------------------------------------------------------


def test_calibration_is_at_rest_and_sets_the_reference() -> None:
    """Shares (1/2, 1/2), (1/4, 3/4), (0.9, 0.1) have the mean (0.55, 0.45)."""
    steps = [moments((1.0, 1.0)), moments((1.0, 3.0)), moments((9.0, 1.0))]
    states, log = play(QUICK, steps)
    assert not log
    for state in states:
        assert state.multipliers == (1.0, 1.0) and state.kl_coef == 0.02
        assert state.drift == 0.0 and not state.active
    assert [state.calibrated for state in states] == [False, False, True]
    assert states[1].threshold == math.inf and states[2].threshold == 0.05
    assert states[2].reference_share == pytest.approx((0.55, 0.45))
    assert states[2].variance_share == states[2].reference_share


def test_moving_average_starts_at_the_reference() -> None:
    settings = replace(QUICK, ema=0.9)
    states, _ = play(settings, [moments((1.0, 1.0))] * 3 + [moments((4.0, 1.0))])
    assert states[-1].variance_share == pytest.approx(
        (0.9 * 0.5 + 0.1 * 0.8, 0.9 * 0.5 + 0.1 * 0.2)
    )


@pytest.mark.parametrize("bad", [(0.0, 0.0, 0.0), (math.nan, 1.0, 1.0), (math.inf, 1.0, 1.0)])
def test_a_step_without_evidence_leaves_the_estimates_alone(bad: tuple[float, ...]) -> None:
    good = [moments(UNIFORM), moments((1.0, 2.0, 1.0)), moments(UNIFORM), moments((1.0, 1.0, 2.0))]
    states, _ = play(QUICK, [*good[:2], moments(bad), *good[2:], moments(bad)])
    expected, _ = play(QUICK, good)
    assert states[-1].step == 6
    assert states[-1].variance_share == expected[-1].variance_share
    assert states[-1].reference_share == expected[-1].reference_share


def test_one_axis_never_drifts() -> None:
    for threshold in ("auto", 1e-6):
        settings = replace(QUICK, threshold=threshold, ema=0.7)
        states, log = play(settings, [moments((float(i),)) for i in range(1, 20)])
        assert not log and not any(state.active for state in states)
        assert states[-1].variance_share == pytest.approx((1.0,))


# State and log ------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistic", ["variance_share", "surprise"])
@pytest.mark.parametrize("guard", ["none", "anchored"])
@pytest.mark.parametrize("stop", [0, 4, 10, 17, 50])
def test_a_resumed_controller_goes_on_bit_for_bit(stop: int, guard: Any, statistic: Any) -> None:
    settings = DriftSettings(guard=guard, statistic=statistic)
    steps = eventful()
    states, log = play(settings, steps)
    half, _ = play(settings, steps[:stop]) if stop else ([DriftState.initial(settings, 3)], [])
    stored = json.loads(json.dumps(half[-1].state_dict()))
    resumed = DriftState.from_state_dict(stored)
    assert resumed == half[-1]
    rest, rest_log = play(settings, steps[stop:], resumed)
    assert rest == states[stop:]
    assert rest_log == [record for record in log if record.step >= stop]


def test_state_of_another_version_is_refused() -> None:
    stored = DriftState.initial(QUICK, 3).state_dict()
    del stored["kl_coef"]
    with pytest.raises(ValueError, match="kl_coef"):
        DriftState.from_state_dict(stored)
    with pytest.raises(ValueError, match="momentum"):
        DriftState.from_state_dict({**DriftState.initial(QUICK, 3).state_dict(), "momentum": 1.0})


@pytest.mark.parametrize("statistic", ["variance_share", "surprise"])
@pytest.mark.parametrize("mode", ["full", "reweight_only", "kl_only"])
@pytest.mark.parametrize("guard", ["none", "anchored"])
def test_the_log_alone_replays_the_controller(mode: Any, guard: Any, statistic: Any) -> None:
    settings = DriftSettings(mode=mode, guard=guard, statistic=statistic, return_rate=0.5)
    states, log = play(settings, eventful())
    assert {record.action for record in log} == {"correct", "return"}
    stored = [Intervention.from_dict(json.loads(json.dumps(record.to_dict()))) for record in log]
    assert stored == log
    # The replay must not lean on the outcome that is in the log.
    blank = [replace(r, multipliers_after=UNIFORM, kl_coef_after=0.0) for r in stored]
    trajectory = replay(blank, settings, 3)
    after = {record.step: control for record, control in zip(log, trajectory, strict=True)}
    for step, state in enumerate(states):
        expected = after.get(step)
        assert state.kl_coef == (expected.kl_coef if expected else 0.02)
        found = expected.axis_multipliers.tolist() if expected else list(UNIFORM)
        assert list(state.multipliers) == found


def test_a_log_with_a_gap_is_refused() -> None:
    _, log = play(DriftSettings(), eventful(anchored=False))
    with pytest.raises(ValueError, match=f"gap before step {log[3].step}"):
        replay([*log[:2], *log[3:]], DriftSettings(), 3)


def test_an_update_leaves_the_old_state_as_it_was() -> None:
    states, _ = play(QUICK, [moments(UNIFORM)] * 3)
    before = states[-1].state_dict()
    update_drift(states[-1], moments((9.0, 1.0, 1.0)), QUICK)
    assert states[-1].state_dict() == before
