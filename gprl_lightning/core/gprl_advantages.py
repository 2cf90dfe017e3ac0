"""GPRL's advantages, with their ablations: steps 1 to 3 of METHOD §2 as one `AdvantageRule`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.advantage_rule import Advantages, AllReduce, ScoredGroups, State
from gprl_lightning.core.advantages import aggregate_axes, axis_mask, axis_std, normalize_axes
from gprl_lightning.core.options import AdvantageScale, Normalization, ScoreShape, Weighting
from gprl_lightning.core.preference import group_scores
from gprl_lightning.core.ranges import require_epsilon, require_range

DECAY = 0.9  # of the running mean of an axis's std, per iteration


@dataclass(frozen=True)
class GPRLAdvantages:
    """``Â(i) = Σ_l λ_l(x) · m_l · Â_l(i)``, each axis normalised by itself.

    Its state: ``running``, the moving average of each axis's mean std over groups, and
    ``starting``, that of the first iteration in which the axis had any (ours).
    """

    score_shape: ScoreShape = "linear"
    normalization: Normalization = "per_axis"
    weighting: Weighting = "eigenvalue"
    advantage_scale: AdvantageScale = "paper"
    epsilon: float = 1e-4
    min_axis_std: float = 0.01
    axis_std_floor: float = 0.0

    def __post_init__(self) -> None:
        require_epsilon(self.epsilon)
        key, least, floor = "algorithm.advantage", self.min_axis_std, self.axis_std_floor
        require_range(f"{key}.min_axis_std", 0 <= least < 1, least, "a number in [0, 1)")
        require_range(f"{key}.axis_std_floor", floor >= 0, floor, "a number >= 0")

    def __call__(self, groups: ScoredGroups, state: State, all_reduce: AllReduce) -> Advantages:
        scores = group_scores(groups.vectors, self.score_shape, groups.tau)
        std = axis_std(scores)
        state = spread(std, state, all_reduce)
        mask = axis_mask(std, state["running"], self.min_axis_std)
        least_std = self.axis_std_floor * state["starting"]
        by_axis = normalize_axes(scores, self.normalization, mask, self.epsilon, least_std)
        advantages = aggregate_axes(
            by_axis,
            groups.eigenvalues,
            groups.multipliers,
            self.normalization,
            self.weighting,
            self.advantage_scale,
            self.epsilon,
            all_reduce,
        )
        return Advantages(scores, by_axis, advantages, state)


def spread(std: Float[Tensor, "groups axes"], state: State, all_reduce: AllReduce) -> State:
    """Return the state with one iteration counted in."""
    none = torch.zeros(std.shape[1], device=std.device)
    running, starting = state.get("running", none), state.get("starting", none)
    count = torch.full((1,), float(len(std)), device=std.device)
    *summed, groups = all_reduce(torch.cat([std.sum(0), count]))
    mean = (torch.stack(summed) / groups).to(running)
    first = running == 0
    now = torch.where(first, mean, DECAY * running + (1 - DECAY) * mean)
    # A NaN would stay in the mean for ever; in the scores it ends as a skipped step.
    finite = mean.isfinite()
    return {
        "running": torch.where(finite, now, running),
        "starting": torch.where(first & finite, mean, starting),
    }
