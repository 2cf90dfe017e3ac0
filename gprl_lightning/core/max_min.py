"""The worst of the axes as the reward: what a response gains on one axis pays for no other.

Source of the idea: egalitarian alignment, "MaxMin-RLHF", arXiv 2402.08925, which maximises the
least satisfied group's expected reward. Here the least is taken response by response over the axes
of one source, each z-scored in its group first, since axes have any scale (ours).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gprl_lightning.core.advantage_rule import Advantages, AllReduce, ScoredGroups, State
from gprl_lightning.core.advantages import axis_std, normalize_axes
from gprl_lightning.core.ranges import require_epsilon


@dataclass(frozen=True)
class MaxMin:
    """Compute ``Â(i) ∝ min_l z_l(i)``, z-scored over the group as GRPO's reward is.

    λ and m say only which axes count: those of weight 0 do not, nor those on which the whole group
    is equal, whose z-score of 0 would cap the others.

    Attributes:
        epsilon: added to every std.
    """

    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        require_epsilon(self.epsilon)

    def __call__(self, groups: ScoredGroups, state: State, all_reduce: AllReduce) -> Advantages:
        """Return the advantages; ``state`` is passed on as it is."""
        scores = groups.scores()
        z_scores = normalize_axes(scores, "per_axis", epsilon=self.epsilon)
        counts = (groups.weights() != 0) & (axis_std(scores) != 0)
        worst = least_of(z_scores, counts)[..., None]
        advantages = normalize_axes(worst, "per_axis", epsilon=self.epsilon)[..., 0]
        return Advantages(scores, z_scores, advantages, state)


def least_of(
    values: Float[Tensor, "groups size axes"], counts: Bool[Tensor, "groups axes"]
) -> Float[Tensor, "groups size"]:
    """Return each response's least value over the axes that count; 0 where none does.

    A NaN is passed on, so that a broken preference model is no silent one.

    >>> least_of(torch.tensor([[[1.0, -2.0, -9.0]]]), torch.tensor([[True, True, False]])).tolist()
    [[-2.0]]
    """
    least = torch.where(counts[:, None], values, torch.inf).amin(-1)
    return torch.where(counts.any(-1, keepdim=True), least, 0.0)
