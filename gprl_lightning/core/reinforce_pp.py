"""REINFORCE++: advantages normalised over the whole batch and not within a group.

Source: arXiv 2501.03262. Its reward holds the KL penalty of each token; here the penalty is in the
loss, where the drift controller can move β, and each response has one advantage (ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.advantage_rule import Advantages, AllReduce, ScoredGroups, State
from gprl_lightning.core.ranges import require_epsilon

Baseline = Literal["group", "batch"]


@dataclass(frozen=True)
class ReinforcePP:
    """Compute ``Â(i) = (r_i − mean) / std``, over all responses of all processes.

    Attributes:
        baseline: ``group`` takes the mean of the rest of the group from a reward first (the paper's
            REINFORCE++-baseline), which any preference source allows; ``batch`` takes nothing
            (plain REINFORCE++), and needs absolute rewards.
        epsilon: added to the std.
    """

    baseline: Baseline = "group"
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        require_epsilon(self.epsilon)

    def __call__(self, groups: ScoredGroups, state: State, all_reduce: AllReduce) -> Advantages:
        """Return the advantages; ``state`` is passed on as it is.

        Raises:
            ValueError: ``baseline`` is ``batch`` and the source compares responses only.
        """
        scores = groups.scores()
        by_axis = scores if self.baseline == "group" else absolute_rewards(groups.vectors)
        rewards = (by_axis * groups.weights()[:, None]).sum(-1).double()
        count = torch.full_like(rewards.sum(), rewards.numel())
        total, squares = rewards.sum(), rewards.square().sum()
        count, total, squares = all_reduce(torch.stack([count, total, squares])).unbind()
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        advantages = ((rewards - mean) / (std + self.epsilon)).to(scores)
        return Advantages(scores, by_axis, advantages, state)


def absolute_rewards(
    vectors: Float[Tensor, "groups size axes entries"],
    setting: str = "algorithm.advantage.baseline=batch",
) -> Float[Tensor, "groups size axes"]:
    """Return the rewards of a source whose vectors are ``[r, 1]``.

    Args:
        vectors: of each response on each axis.
        setting: what asks for rewards, for the error.

    Raises:
        ValueError: they are not: the source says who is ahead of whom, and not by itself how good a
            response is.
    """
    if vectors.shape[-1] != 2 or not bool((vectors[..., 1] == 1).all()):
        raise ValueError(
            f"{setting}: expected a preference source with a reward of its own for each response "
            "(Bradley-Terry, Python functions); found one that compares responses only. Choose "
            "another preference_model, or another rule, such as algorithm.advantage.baseline=group."
        )
    return vectors[..., 0]
