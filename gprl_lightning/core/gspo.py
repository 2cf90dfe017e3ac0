"""Group Sequence Policy Optimization: one ratio for a whole response (arXiv 2507.18071)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.batch import Minibatch
from gprl_lightning.core.losses import LOG_RATIO_LIMIT
from gprl_lightning.core.policy_loss import PolicyTerms, Reach
from gprl_lightning.core.ranges import require_range


@dataclass(frozen=True)
class GSPO:
    """``-min(s · A, clip(s) · A)`` with ``s = exp(mean_t (log π_θ - log π_old))``, on each token.

    With ``loss_aggregation=grpo`` the mean over tokens and responses is the paper's.
    """

    epsilon: float = 3e-4
    epsilon_high: float = 4e-4
    reach: Reach = "sequence"

    def __post_init__(self) -> None:
        key, low, high = "algorithm.policy_loss", self.epsilon, self.epsilon_high
        require_range(f"{key}.epsilon", 0 < low < 1, low, "a number in (0, 1)")
        require_range(f"{key}.epsilon_high", high > 0, high, "a number > 0")

    def __call__(self, logprobs: Float[Tensor, "rows tokens"], batch: Minibatch) -> PolicyTerms:
        mask, advantages = batch.response_mask, batch.advantages[:, None]
        difference = torch.where(mask, logprobs - batch.old_logprobs, 0.0).sum(1, keepdim=True)
        mean = difference / mask.sum(1, keepdim=True).clamp(min=1)
        ratio = mean.clamp(max=LOG_RATIO_LIMIT).exp()
        free = ratio * advantages
        bounded = ratio.clamp(1 - self.epsilon, 1 + self.epsilon_high) * advantages
        terms = -torch.minimum(free, bounded), ratio.detach(), (bounded < free).detach()
        return PolicyTerms(*(term.expand_as(logprobs) for term in terms))
