"""VPO's advantage: what a response adds to its group, over many weightings of the axes.

Source: "Vector Policy Optimization", arXiv 2605.22817: a set of answers is worth
``E_w max_j w · r(y_j)``, the best of it under a weighting w of the rewards, in the mean over
weightings drawn from a Dirichlet distribution. The paper lets one rollout hold several answers.
Here the group stands in for the set (our reading). A response's credit is then the worth of the
group less that of the group without it: a policy gradient of the set's worth, with a baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gprl_lightning.core.advantage_rule import Advantages, AllReduce, ScoredGroups, State
from gprl_lightning.core.ranges import require_epsilon, require_range


@dataclass(frozen=True)
class VPO:
    """Compute ``Â(i) ∝ E_w [max_j w · r_j − max_{j≠i} w · r_j]``, z-scored over the group.

    r is the group score of each axis times λ_l m_l. A reward less the mean of the others' is the
    reward but for a shift and a factor, which the z-score takes out; so a preference model's axes
    need no absolute rewards (ours). The z-score is GRPO's, whose estimator VPO replaces.

    Attributes:
        draws: weightings drawn for each prompt and iteration, uniform on the simplex (a Dirichlet
            distribution with concentration 1; the paper's concentration is unknown to us).
        epsilon: added to the std.
    """

    draws: int = 64
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        require_epsilon(self.epsilon)
        draws = self.draws
        require_range("algorithm.advantage.draws", draws >= 1, draws, "a whole number >= 1")

    def __call__(self, groups: ScoredGroups, state: State, all_reduce: AllReduce) -> Advantages:
        """Return the advantages; ``state`` is passed on as it is."""
        scores = groups.scores()
        rewards = scores * groups.weights()[:, None]
        weightings = draw_weightings(groups.uids, groups.iteration, self.draws, rewards.shape[-1])
        by_axis = set_contributions(rewards, weightings.to(rewards))
        worth = by_axis.sum(-1)
        centred = worth - worth.mean(1, keepdim=True)
        std = centred.square().mean(1, keepdim=True).sqrt()
        return Advantages(scores, by_axis, centred / (std + self.epsilon), state)


def set_contributions(
    rewards: Float[Tensor, "groups size axes"], weightings: Float[Tensor, "groups draws axes"]
) -> Float[Tensor, "groups size axes"]:
    """Return what each response adds to the best of its group, by axis; no sum is negative.

    Under a weighting w only the best response adds anything: ``w · (r_best − r_second)``, of which
    axis l has ``w_l (r_best − r_second)_l``. The mean is over weightings. Needs size >= 2.
    """
    value = weightings @ rewards.transpose(1, 2)  # groups, draws, size
    first, second = value.topk(2, dim=2).indices.unbind(2)
    places = torch.arange(len(rewards), device=rewards.device)[:, None]
    lead = weightings * (rewards[places, first] - rewards[places, second])
    index = first[..., None].expand_as(lead)
    return torch.zeros_like(rewards).scatter_add(1, index, lead) / weightings.shape[1]


def draw_weightings(
    uids: Int[Tensor, " groups"], iteration: int, draws: int, axes: int
) -> Float[Tensor, "groups draws axes"]:
    """Draw weightings, uniform on the simplex, keyed by prompt and iteration.

    The same on every process and after a resume, since no shared generator is read.
    """
    rows: list[Tensor] = []
    for uid in uids.cpu():
        generator = torch.Generator().manual_seed(int(uid) * 1_000_003 + iteration)
        rows.append(torch.empty(draws, axes).double().exponential_(generator=generator))
    drawn = torch.stack(rows)
    return drawn / drawn.sum(-1, keepdim=True)
