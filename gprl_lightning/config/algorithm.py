"""The algorithm, its rollouts and its drift monitor: every `[C]` of the method is a field here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gprl_lightning.config.checks import at_least, one_of, require
from gprl_lightning.core import options

if TYPE_CHECKING:
    from gprl_lightning.core.options import (
        AdvantageScale,
        Correction,
        CorrectionLevel,
        Guard,
        KLEstimator,
        LossAggregation,
        Mode,
        Normalization,
        ScoreShape,
        Share,
        Statistic,
        Weighting,
    )
else:  # OmegaConf knows no Literal: to it such a field is a string; __post_init__ checks it
    AdvantageScale = ScoreShape = Guard = KLEstimator = LossAggregation = str
    Correction = CorrectionLevel = str
    Mode = Normalization = Share = Statistic = Weighting = str


@dataclass
class AlgorithmConfig:
    """The GPRL update (METHOD §2); ``algorithm=grpo`` is this with one axis, a scalar reward."""

    name: str = "gprl"  # of the preset; grpo: the preference model must be Bradley-Terry
    # `_target_` and options: an `AdvantageRule` and a `PolicyLoss`
    advantage: dict[str, Any] = field(default_factory=dict)
    policy_loss: dict[str, Any] = field(default_factory=dict)
    score_shape: ScoreShape = "linear"  # bounded: mean chance of winning, not mean score; ours
    normalization: Normalization = "per_axis"
    weighting: Weighting = "eigenvalue"
    advantage_scale: AdvantageScale = "paper"
    advantage_epsilon: float = 1e-4  # ε of the z-score; ours
    min_axis_std: float = 0.01  # an axis under this share of its running mean std is masked; ours
    # A z-score divides by at least this share of the axis's mean std in the first iteration; ours
    axis_std_floor: float = 0.0
    loss_aggregation: LossAggregation = "dr_grpo"
    clip_epsilon: float = 0.2
    clip_epsilon_high: float | None = None  # None: as clip_epsilon; DAPO's clip-higher: 0.28
    kl_coef: float = 0.02  # β, at rest
    # k2 pulls by KL(π_θ ‖ π_ref), k3 by KL(π_ref ‖ π_θ), k1 not at all: `core.losses.kl_estimate`
    kl_estimator: KLEstimator = "k3"
    oversample: int = 1  # prompts sampled for each that an update keeps: DAPO's dynamic sampling
    inner_epochs: int = 1  # passes over one rollout
    minibatches: int = 1  # optimiser steps per pass
    micro_batch_size: int | None = None  # rollouts per forward; None: a whole minibatch
    micro_batch_tokens: int | None = None  # tokens per forward, padding included; None: no bound
    max_grad_norm: float = 1.0
    max_bad_steps: int = 3  # non-finite optimiser steps that a run may skip; one more stops it
    # How far (nats) the sampler may be off the policy; None: by precision, see core.precision
    max_logprob_mismatch: float | None = None

    def __post_init__(self) -> None:
        one_of("algorithm.score_shape", self.score_shape, options.ScoreShape)
        one_of("algorithm.normalization", self.normalization, options.Normalization)
        one_of("algorithm.weighting", self.weighting, options.Weighting)
        one_of("algorithm.advantage_scale", self.advantage_scale, options.AdvantageScale)
        one_of("algorithm.loss_aggregation", self.loss_aggregation, options.LossAggregation)
        one_of("algorithm.kl_estimator", self.kl_estimator, options.KLEstimator)
        key = "algorithm."
        require(key + "name", bool(self.name), self.name, "a word, such as gprl")
        require(
            key + "advantage_epsilon", self.advantage_epsilon > 0, self.advantage_epsilon, "> 0"
        )
        require(key + "min_axis_std", 0 <= self.min_axis_std < 1, self.min_axis_std, "in [0, 1)")
        require(key + "axis_std_floor", self.axis_std_floor >= 0, self.axis_std_floor, ">= 0")
        require(key + "clip_epsilon", 0 < self.clip_epsilon < 1, self.clip_epsilon, "in (0, 1)")
        high = self.clip_epsilon_high
        require(key + "clip_epsilon_high", high is None or high > 0, high, "> 0, or null")
        require(key + "kl_coef", self.kl_coef >= 0, self.kl_coef, ">= 0")
        require(key + "oversample", self.oversample >= 1, self.oversample, ">= 1")
        require(key + "inner_epochs", self.inner_epochs >= 1, self.inner_epochs, ">= 1")
        require(key + "minibatches", self.minibatches >= 1, self.minibatches, ">= 1")
        micro = self.micro_batch_size
        require(key + "micro_batch_size", micro is None or micro >= 1, micro, ">= 1, or null")
        tokens = self.micro_batch_tokens
        require(key + "micro_batch_tokens", tokens is None or tokens >= 1, tokens, ">= 1, or null")
        require(key + "max_grad_norm", self.max_grad_norm > 0, self.max_grad_norm, "> 0")
        at_least("algorithm", self, 0, "max_bad_steps")
        limit = self.max_logprob_mismatch
        require(key + "max_logprob_mismatch", limit is None or limit > 0, limit, "> 0, or null")


@dataclass
class RolloutConfig:
    """How responses are sampled, and by what."""

    group_size: int = 8  # G
    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    # `_target_`: a class with the `Sampler` protocol; the other keys are its own options
    sampler: dict[str, Any] = field(
        default_factory=lambda: {"_target_": "gprl_lightning.rollout.native.NativeSampler"}
    )
    # Importance weights for samples of another distribution: none | truncate | mask; ours
    correction: Correction = "none"
    correction_level: CorrectionLevel = "token"
    correction_low: float = 0.0  # least ratio; 0: no bound
    correction_high: float = 2.0  # greatest ratio
    # 1: the next iteration's responses are sampled while this one is trained; ours
    staleness: int = 0

    def __post_init__(self) -> None:
        key = "rollout."
        require(
            key + "group_size", self.group_size >= 2, self.group_size,
            ">= 2: a group of one has nothing to be compared with",
        )  # fmt: skip
        require(key + "max_new_tokens", self.max_new_tokens >= 1, self.max_new_tokens, ">= 1")
        require(key + "temperature", self.temperature > 0, self.temperature, "> 0")
        require(key + "top_p", 0 < self.top_p <= 1, self.top_p, "in (0, 1]")
        require(key + "top_k", self.top_k >= 0, self.top_k, ">= 0 (0: all tokens)")
        require(key + "min_p", 0 <= self.min_p < 1, self.min_p, "in [0, 1)")
        named = "a _target_: the dotted name of a class with the Sampler protocol"
        require(key + "sampler", "_target_" in self.sampler, self.sampler, named)
        one_of(key + "correction", self.correction, options.Correction)
        one_of(key + "correction_level", self.correction_level, options.CorrectionLevel)
        low, high = self.correction_low, self.correction_high
        require(key + "correction_low", 0 <= low <= 1, low, "in [0, 1]")
        require(key + "correction_high", high >= 1, high, ">= 1")
        require(key + "staleness", self.staleness in (0, 1), self.staleness, "0 or 1")


@dataclass
class DriftConfig:
    """The drift monitor and its controller (METHOD §3)."""

    enabled: bool = True
    mode: Mode = "full"
    # The drift: divergence of variance shares (the paper's), or rise of -log π_ref per token (ours)
    statistic: Statistic = "variance_share"
    share: Share = "raw"
    guard: Guard = "none"
    threshold: Any = "auto"  # nats (surprise: nats per token), or "auto"
    threshold_quantile: float = 0.99  # of steps; for the surprise of whole runs
    alarm_horizon: int = 200  # steps of such a run, for the automatic threshold of the surprise
    calibration_steps: int = 10
    ema: float = 0.9
    share_floor: float = 1e-3
    reweight_rate: float = 0.5  # η
    multiplier_bound: float = 4.0  # multipliers stay in [1/bound, bound]
    kl_gain: float = 0.5  # K
    kl_bound: float = 10.0  # β stays in [β₀, bound · β₀]
    return_rate: float = 0.95  # ρ
    anchor: bool = True  # compute the anchored statistic (one stored response per prompt)
    guard_margin: float = 0.25  # rise of the anchored score that marks an axis as exploited; ours
    # A metrics.csv whose β is replayed, iteration by iteration, in the monitor's stead; ours
    schedule: str | None = None

    def __post_init__(self) -> None:
        key = "drift."
        one_of(key + "mode", self.mode, options.Mode)
        one_of(key + "statistic", self.statistic, options.Statistic)
        one_of(key + "share", self.share, options.Share)
        one_of(key + "guard", self.guard, options.Guard)
        number = isinstance(self.threshold, (int, float)) and self.threshold > 0
        require(
            key + "threshold", number or self.threshold == "auto", self.threshold, "auto, or > 0"
        )
        quantile = self.threshold_quantile
        require(key + "threshold_quantile", 0 < quantile < 1, quantile, "in (0, 1)")
        require(
            key + "calibration_steps", self.calibration_steps >= 2, self.calibration_steps, ">= 2"
        )
        require(key + "alarm_horizon", self.alarm_horizon >= 1, self.alarm_horizon, ">= 1")
        require(key + "ema", 0 <= self.ema < 1, self.ema, "in [0, 1)")
        require(key + "share_floor", 0 < self.share_floor < 0.1, self.share_floor, "in (0, 0.1)")
        require(key + "reweight_rate", self.reweight_rate >= 0, self.reweight_rate, ">= 0")
        require(key + "multiplier_bound", self.multiplier_bound > 1, self.multiplier_bound, "> 1")
        require(key + "kl_gain", self.kl_gain >= 0, self.kl_gain, ">= 0")
        require(key + "kl_bound", self.kl_bound >= 1, self.kl_bound, ">= 1")
        require(key + "return_rate", 0 <= self.return_rate <= 1, self.return_rate, "in [0, 1]")
        if self.schedule is not None:
            require(key + "schedule", self.schedule != "", self.schedule, "a run's metrics.csv")
            expected = "false with drift.schedule, which sets β in the monitor's stead"
            require(key + "enabled", not self.enabled, self.enabled, expected)
        if self.guard == "anchored":
            require(key + "anchor", self.anchor, self.anchor, "true where drift.guard=anchored")
