"""LamPO's pairwise-decomposed advantage: gaps between responses, weighted by the policy's view.

Source: "LamPO: A Lambda Style Policy Optimization for Reasoning Language Models", arXiv 2605.21235,
which was withdrawn: only its abstract could be read. From it: pairwise reward gaps within a group
are added up, each times "a confidence-aware weight computed from sequence log-probability
differences", under PPO's clipped update. Our reading, after LambdaRank, whose name it bears: a pair
weighs as much as the policy has it in the wrong order. Its auxiliary reward from reference
solutions (ROUGE-L) is not built.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gprl_lightning.core.advantage_rule import Advantages, AllReduce, ScoredGroups, State
from gprl_lightning.core.ranges import require_epsilon, require_range


@dataclass(frozen=True)
class LamPO:
    """Compute ``Â(i) ∝ 1/(G−1) · Σ_j σ(−(ℓ_i − ℓ_j)/T · sign s(i, j)) · s(i, j)``.

    ℓ is the log-probability of a whole response, s the weighted score over all axes. The weight is
    that of the pair, whichever response is named first, so the advantages of a group sum to 0. They
    are divided by their std in the group, as GRPO's are, so that β means the same (ours).

    Attributes:
        temperature: T, in nats; large: every pair weighs ½, and the rule is GRPO's.
        per_token: take ℓ as the mean over a response's tokens and not as their sum (ours).
        epsilon: added to the std.
    """

    temperature: float = 1.0
    per_token: bool = False
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        require_epsilon(self.epsilon)
        nats = self.temperature
        require_range("algorithm.advantage.temperature", nats > 0, nats, "a number of nats > 0")

    def __call__(self, groups: ScoredGroups, state: State, all_reduce: AllReduce) -> Advantages:
        """Return the advantages; ``state`` is passed on as it is."""
        pairs, weights = groups.pairs(), groups.weights()
        total = (pairs * weights[:, None, None]).sum(-1)
        confidence = groups.logprobs / groups.lengths if self.per_token else groups.logprobs
        gap = confidence[:, :, None] - confidence[:, None]
        disagreement = torch.sigmoid(-gap / self.temperature * total.sign()).to(pairs)
        by_axis = (disagreement[..., None] * pairs).sum(2) / (pairs.shape[1] - 1)
        advantages = (by_axis * weights[:, None]).sum(-1)
        std = advantages.square().mean(1, keepdim=True).sqrt()
        return Advantages(groups.scores(), by_axis, advantages / (std + self.epsilon), state)
