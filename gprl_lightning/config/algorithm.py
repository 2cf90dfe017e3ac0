"""The algorithm, its rollouts and its drift monitor: every `[C]` of the method is a field here."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from annotated_types import Interval, MinLen

from gprl_lightning.config.section import (
    BelowOne,
    Count,
    Fraction,
    Gain,
    Inside,
    Natural,
    NonNegative,
    Positive,
    Several,
    Temperature,
    Weight,
    require,
    section,
)
from gprl_lightning.core.options import (
    AdvantageScale,
    Correction,
    CorrectionLevel,
    Guard,
    KLEstimator,
    LossAggregation,
    Mode,
    Normalization,
    Reweight,
    ScoreShape,
    Share,
    Statistic,
    Weighting,
)


@section("algorithm")
class AlgorithmConfig:
    """The GPRL update (METHOD §2); ``algorithm=grpo`` is this with one axis, a scalar reward."""

    # of the preset; grpo: the preference model must be Bradley-Terry
    name: Annotated[str, MinLen(1), "a word, such as gprl"] = "gprl"
    # `_target_` and options: an `AdvantageRule` and a `PolicyLoss`
    advantage: dict[str, Any] = field(default_factory=dict)
    policy_loss: dict[str, Any] = field(default_factory=dict)
    score_shape: ScoreShape = "linear"  # bounded: mean chance of winning, not mean score; ours
    normalization: Normalization = "per_axis"
    weighting: Weighting = "eigenvalue"
    advantage_scale: AdvantageScale = "paper"
    advantage_epsilon: Annotated[float, Interval(gt=0, le=1)] = 1e-4  # ε of the z-score; ours
    min_axis_std: BelowOne = 0.01  # an axis under this share of its mean std is masked; ours
    # A z-score divides by at least this share of the axis's mean std in the first iteration; ours
    axis_std_floor: NonNegative = 0.0
    loss_aggregation: LossAggregation = "dr_grpo"
    clip_epsilon: Inside = 0.2
    clip_epsilon_high: Positive | None = None  # None: as clip_epsilon; DAPO's clip-higher: 0.28
    kl_coef: Weight = 0.02  # β, at rest
    # k2 pulls by KL(π_θ ‖ π_ref), k3 by KL(π_ref ‖ π_θ), k1 not at all: `core.losses.kl_estimate`
    kl_estimator: KLEstimator = "k3"
    # c of c · sqrt(χ²(π_θ ‖ π_ref)) of whole responses, beside β · KL: `core.chi_squared`; 0: off
    chi2_coef: Weight = 0.0
    oversample: Count = 1  # prompts sampled for each that an update keeps: DAPO's dynamic sampling
    inner_epochs: Count = 1  # passes over one rollout
    minibatches: Count = 1  # optimiser steps per pass
    micro_batch_size: Count | None = None  # rollouts per forward; None: a whole minibatch
    # Tokens per forward, with padding; None: no bound; auto: as many as the device has memory for
    micro_batch_tokens: Count | Literal["auto"] | None = None
    max_grad_norm: Positive = 1.0
    max_bad_steps: Natural = 3  # non-finite optimiser steps that a run may skip; one more stops it
    # Iterations in a row, each without any signal, that stop a run; None: it goes on; ours
    max_silent_iterations: Count | None = 50
    # How far (nats) the sampler may be off the policy; None: by precision, see core.precision
    max_logprob_mismatch: Positive | None = None

    @property
    def asks_for_rewards(self) -> str:
        """Return the setting that needs a reward of its own for each response; empty if none."""
        if self.advantage.get("baseline") == "batch":
            return "algorithm.advantage.baseline=batch"
        bounded = str(self.advantage.get("_target_", "")).endswith(".Constrained")
        return "algorithm/advantage=constrained" if bounded else ""


@section("rollout")
class RolloutConfig:
    """How responses are sampled, and by what."""

    # G
    group_size: Annotated[Several, "a group of one has nothing to be compared with"] = 8
    max_new_tokens: Count = 512
    temperature: Temperature = 1.0
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
    top_k: Natural = 0  # 0: all
    min_p: BelowOne = 0.0
    # `_target_`: a class with the `Sampler` protocol; the other keys are its own options
    sampler: dict[str, Any] = field(
        default_factory=lambda: {"_target_": "gprl_lightning.rollout.native.NativeSampler"}
    )
    # Importance weights for samples of another distribution: none | truncate | mask; ours
    correction: Correction = "none"
    correction_level: CorrectionLevel = "token"
    correction_low: Fraction = 0.0  # least ratio; 0: no bound
    correction_high: Annotated[float, Interval(ge=1)] = 2.0  # greatest ratio
    # 1: the next iteration's responses are sampled while this one is trained; ours
    staleness: Literal[0, 1] = 0
    # With trainer=fsdp2: each process has the policy whole as it samples; false: layer by layer
    gather: bool = True

    def __post_init__(self) -> None:
        named = "a _target_: the dotted name of a class with the Sampler protocol"
        require("rollout.sampler", "_target_" in self.sampler, self.sampler, named)


@section("drift")
class DriftConfig:
    """The drift monitor and its controller (METHOD §3)."""

    enabled: bool = False  # as ~drift leaves it; drift=full and its kin set it
    mode: Mode = "full"
    # The drift: divergence of variance shares (the paper's), or rise of -log π_ref per token (ours)
    statistic: Statistic = "variance_share"
    share: Share = "raw"
    # A share counts at least this part of its axis's starting std, so that an axis which has
    # saturated does not look as if the others drifted; ours
    spread_floor: Fraction = 0.0
    guard: Guard = "none"
    threshold: Literal["auto"] | Positive = "auto"  # nats (surprise: nats per token)
    threshold_quantile: Inside = 0.99  # of steps; for the surprise of whole runs
    alarm_horizon: Count = 200  # steps of such a run, for the automatic threshold of the surprise
    calibration_steps: Several = 10
    ema: BelowOne = 0.9
    share_floor: Annotated[float, Interval(gt=0, lt=0.1)] = 1e-3
    # balanced: multipliers sum to k (the paper's, as we read it); down: none rises above 1; ours
    reweight: Reweight = "balanced"
    reweight_rate: Gain = 0.5  # η
    # multipliers stay in [1/bound, bound]
    multiplier_bound: Annotated[float, Interval(gt=1, le=1_000_000)] = 4.0
    kl_gain: Gain = 0.5  # K
    kl_bound: Annotated[float, Interval(ge=1, le=1_000_000)] = 10.0  # β stays in [β₀, bound · β₀]
    return_rate: Fraction = 0.95  # ρ
    anchor: bool = False  # compute the anchored statistic (one stored response per prompt)
    # rise of the anchored score that marks an axis as exploited; ours
    guard_margin: NonNegative = 0.25
    # A metrics.csv whose β is replayed, iteration by iteration, in the monitor's stead; ours
    schedule: Annotated[str, MinLen(1), "a run's metrics.csv"] | None = None

    def __post_init__(self) -> None:
        if self.schedule is not None:
            wanted = "false with drift.schedule, which sets β in the monitor's stead"
            require("drift.enabled", not self.enabled, self.enabled, wanted)
        if self.guard == "anchored":
            require("drift.anchor", self.anchor, self.anchor, "true where drift.guard=anchored")
