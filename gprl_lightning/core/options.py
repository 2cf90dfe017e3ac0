"""The options of the algorithm by name. Free of torch, so that configuration and ``--help`` stay
quick."""

from typing import Literal

Normalization = Literal["per_axis", "global", "none", "per_axis_whitened"]
Weighting = Literal["eigenvalue", "uniform", "unit"]
AdvantageScale = Literal["paper", "matched"]
ScoreShape = Literal["linear", "bounded"]
LossAggregation = Literal["dr_grpo", "dapo", "grpo"]
KLEstimator = Literal["k1", "k2", "k3"]
Combination = Literal["mean", "minimum", "mean_minus_std", "mean_minus_variance"]
Kind = Literal["gpm", "bradley_terry", "multi_head", "gold"]
EigenvalueScale = Literal["simplex", "scaled"]
L2Scope = Literal["all", "axis"]
CanonicalAxes = Literal["none", "principal", "joint"]
Values = Literal["conversation", "answer_only"]
Mode = Literal["full", "reweight_only", "kl_only", "monitor_only"]
Share = Literal["raw", "weighted"]
Guard = Literal["none", "anchored"]
Reweight = Literal["balanced", "down"]
Statistic = Literal["variance_share", "surprise"]
Correction = Literal["none", "truncate", "mask"]
CorrectionLevel = Literal["token", "sequence"]
Schedule = Literal[
    "constant",
    "constant_with_warmup",
    "cosine",
    "cosine_with_restarts",
    "inverse_sqrt",
    "linear",
    "polynomial",
]
