"""Every option that `core` consumes changes the result: no flag is dead."""

from __future__ import annotations

from dataclasses import fields
from itertools import combinations
from typing import get_args

import pytest
import torch
from torch import Tensor

from gprl_lightning.config import AlgorithmConfig, DriftConfig
from gprl_lightning.core import options
from gprl_lightning.core.advantages import aggregate_axes, axis_mask, axis_std, normalize_axes
from gprl_lightning.core.chi_squared import chi_squared_by_token
from gprl_lightning.core.drift import DriftSettings, DriftState, axis_moments, update_drift
from gprl_lightning.core.losses import clipped_surrogate, kl_estimate, masked_sum, token_weights
from gprl_lightning.core.preference import axis_pairs, group_scores
from tests.core.examples import batch, double, gates, multipliers

# Values of each option, all of which must act differently, and what else has to be set for that.
ALGORITHM: dict[str, tuple] = {
    "score_shape": get_args(options.ScoreShape),
    "normalization": get_args(options.Normalization),
    "weighting": get_args(options.Weighting),
    "advantage_scale": get_args(options.AdvantageScale),
    "advantage_epsilon": (1e-4, 0.1),
    "min_axis_std": (0.01, 0.8),
    "axis_std_floor": (0.0, 1.0, 2.0),
    "loss_aggregation": get_args(options.LossAggregation),
    "clip_epsilon": (0.2, 0.1),
    "clip_epsilon_high": (None, 0.28, 0.5),
    "kl_coef": (0.02, 0.0, 0.1),
    "kl_estimator": get_args(options.KLEstimator),
    "chi2_coef": (0.0, 0.05, 0.5),
}
# Of the module's loop; `name` says which preference model goes with the algorithm.
OPTIMISATION = {"inner_epochs", "minibatches", "micro_batch_size", "max_grad_norm", "name"}
OPTIMISATION |= {"micro_batch_tokens", "max_bad_steps", "max_logprob_mismatch", "oversample"}
OPTIMISATION |= {"max_silent_iterations"}
HOOKS = {"advantage", "policy_loss"}  # objects; the options above reach them by the group files

DRIFT: dict[str, tuple] = {
    "mode": get_args(options.Mode),
    "statistic": get_args(options.Statistic),
    "share": get_args(options.Share),
    "guard": get_args(options.Guard),
    "threshold": (0.05, 0.2, "auto"),
    "threshold_quantile": (0.99, 0.5),
    "alarm_horizon": (200, 5),
    "calibration_steps": (4, 3),
    "ema": (0.9, 0.0),
    "share_floor": (1e-3, 0.05),
    "reweight": get_args(options.Reweight),
    "spread_floor": (0.0, 0.9),
    "reweight_rate": (0.5, 0.1),
    "multiplier_bound": (4.0, 1.5),
    "kl_gain": (0.5, 0.1),
    "kl_bound": (10.0, 1.2),
    "return_rate": (0.95, 0.5),
    "guard_margin": (0.25, 0.8),
    "kl_coef": (0.02, 0.05),
}
NEEDS = {
    "threshold_quantile": {"threshold": "auto"},
    "alarm_horizon": {"threshold": "auto", "statistic": "surprise"},
    "guard_margin": {"guard": "anchored"},
}
# Whether there is a monitor, whether it gets anchored scores, and what stands in for it.
CALLBACK = {"enabled", "anchor", "schedule"}


def update(config: AlgorithmConfig) -> Tensor:
    """Loss and its gradient by token, of 18 responses of one to five tokens in three groups."""
    axes, generator = 3, torch.Generator().manual_seed(0)
    scores = group_scores(axis_pairs(double(batch("random", axes))), config.score_shape, 0.1)
    std = axis_std(scores)
    least_std = config.axis_std_floor * std.mean(0)
    mask = axis_mask(std, std.mean(0), config.min_axis_std)
    epsilon = config.advantage_epsilon
    normalized = normalize_axes(scores, config.normalization, mask, epsilon, least_std)
    advantages = aggregate_axes(
        normalized,
        double(gates(axes)),
        double(multipliers(axes)),
        config.normalization,
        config.weighting,
        config.advantage_scale,
        config.advantage_epsilon,
    ).flatten()
    real = torch.arange(5) < torch.arange(18)[:, None] % 5 + 1
    old, noise, ref = -3 * torch.rand(3, 18, 5, dtype=torch.float64, generator=generator)
    new = (old + 0.4 * (noise + 1.5)).requires_grad_()
    surrogate, _, _ = clipped_surrogate(
        new, old, advantages, config.clip_epsilon, config.clip_epsilon_high
    )
    kl = kl_estimate(new, ref, config.kl_estimator)
    weights = token_weights(real, config.loss_aggregation, len(real), int(real.sum()), 8)
    loss = masked_sum(surrogate, weights, real) + config.kl_coef * masked_sum(kl, weights, real)
    chi2 = chi_squared_by_token(new, ref, real)
    loss = loss + config.chi2_coef * masked_sum(chi2, weights, real)
    loss.backward()
    return torch.cat([loss.detach()[None], new.grad.flatten()])


def controls(settings: DriftSettings) -> Tensor:
    """Multipliers and KL coefficient of each step, in a run that drifts slowly and comes back.

    Axis 0 takes over while axis 2 saturates: its spread falls and its anchored score rises. The
    surprise rises with it.
    """
    scores, eigenvalues = group_scores(axis_pairs(double(batch("random", 3)))), double(gates(3))
    generator = torch.Generator().manual_seed(0)
    state, rows = DriftState.initial(settings, 3), []
    for step in range(50):
        drifted = min(max(step - 5, 0) / 10, 1.0) if step < 30 else 0.0
        noise = 1 + 0.1 * torch.randn(3, dtype=torch.float64, generator=generator)
        spread = noise * double([1 + 2 * drifted, 1.0, 1 - 0.99 * drifted])
        anchored = double([[0.0, 0.0, 0.9 * drifted]] * 3)
        surprise = (0.5 + drifted + 0.1 * noise[0]).expand(3)
        moments = axis_moments(scores * spread, eigenvalues, settings.share, anchored, surprise)
        state, control, _ = update_drift(state, moments, settings)
        rows.append(torch.cat([control.axis_multipliers, double([control.kl_coef])]))
    return torch.stack(rows)


def assert_pairwise_distinct(results: dict[object, Tensor]) -> None:
    for (a, first), (b, second) in combinations(results.items(), 2):
        change = (first - second).abs().max().item()
        assert change > 1e-4, f"{a!r} and {b!r} act alike: the largest change is {change:.1e}"


@pytest.mark.parametrize("option", ALGORITHM)
def test_algorithm_option(option: str) -> None:
    assert_pairwise_distinct(
        {value: update(AlgorithmConfig(**{option: value})) for value in ALGORITHM[option]}
    )


@pytest.mark.parametrize("option", DRIFT)
def test_drift_option(option: str) -> None:
    base = {"threshold": 0.05, "calibration_steps": 4, **NEEDS.get(option, {})}
    assert_pairwise_distinct(
        {value: controls(DriftSettings(**{**base, option: value})) for value in DRIFT[option]}
    )


def test_no_option_is_left_out() -> None:
    """A new option has to be listed above, or said to be another part's."""
    assert {f.name for f in fields(AlgorithmConfig)} == ALGORITHM.keys() | OPTIMISATION | HOOKS
    assert {f.name for f in fields(DriftSettings)} == DRIFT.keys()
    assert {f.name for f in fields(DriftConfig)} == (DRIFT.keys() | CALLBACK) - {"kl_coef"}


def test_settings_have_the_defaults_of_the_configuration() -> None:
    config, settings = DriftConfig(), DriftSettings()
    for name in DRIFT.keys() - {"kl_coef"}:
        assert getattr(config, name) == getattr(settings, name)
    assert settings.kl_coef == AlgorithmConfig().kl_coef
