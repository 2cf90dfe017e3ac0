"""Importance weights for responses that were sampled from another distribution than π_old.

An inference engine rounds otherwise than the trainer, and a rollout that is one step old was made
by the weights before the last update. Its tokens then come from a policy μ that is not π_old, and
the policy gradient is biased. The weight π_old / μ takes the bias out, at the price of variance;
its bounds limit that price. It multiplies the policy term of the loss and not the KL penalty.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gprl_lightning.core.losses import LOG_RATIO_LIMIT
from gprl_lightning.core.options import Correction, CorrectionLevel


def weights(
    old: Float[Tensor, "rollouts tokens"],
    sampled: Float[Tensor, "rollouts tokens"],
    mask: Bool[Tensor, "rollouts tokens"],
    mode: Correction,
    level: CorrectionLevel,
    low: float,
    high: float,
) -> Float[Tensor, "rollouts tokens"]:
    """Return the weight of each token's policy term (METHOD §2a); 1 outside the mask.

    With ``d = log π_old − log μ`` of a token, the ratio is ``exp(d)`` at the level of tokens, and
    ``exp(Σ d)`` over the response, the same for all of its tokens, at the level of sequences. The
    latter alone is unbiased for responses of several tokens; its variance grows with their length.
    Where d is 0 the weight is exactly 1.

    Sources: truncation, Ionides 2008 and Yao et al. 2025 ("Your Efficient RL Framework Secretly
    Brings You Off-Policy RL Training"); masking, Ling Team, arXiv 2510.18855 (IcePop); sequences,
    Liu et al. 2025 ("When Speed Kills Stability").

    Args:
        old: log π_old of the sampled tokens, by the trainer's own forward, in nats.
        sampled: log μ of the same tokens, as the engine that drew them says.
        mask: True on sampled tokens.
        mode: ``truncate`` bounds the ratio by [low, high]; ``mask`` takes 0 for a ratio outside of
            it; ``none`` takes 1 for all.
        level: ``token`` or ``sequence``.
        low: at most 1; 0: no lower bound.
        high: at least 1.
    """
    if mode == "none":
        return torch.ones_like(old)
    gap = torch.where(mask, old - sampled, 0.0)
    if level == "sequence":
        gap = torch.where(mask, gap.sum(1, keepdim=True), 0.0)
    ratio = gap.clamp(max=LOG_RATIO_LIMIT).exp()
    if mode == "truncate":
        return ratio.clamp(low, high)
    return torch.where((ratio >= low) & (ratio <= high), ratio, 0.0)


@dataclass(frozen=True)
class ImportanceCorrection:
    """The options of `weights`: the keys ``rollout.correction*``. By default all weights are 1."""

    mode: Correction = "none"
    level: CorrectionLevel = "token"
    low: float = 0.0
    high: float = 2.0

    def __call__(
        self,
        old: Float[Tensor, "rollouts tokens"],
        sampled: Float[Tensor, "rollouts tokens"],
        mask: Bool[Tensor, "rollouts tokens"],
    ) -> Float[Tensor, "rollouts tokens"]:
        """Return `weights` by these options."""
        return weights(old, sampled, mask, self.mode, self.level, self.low, self.high)

    def bounded(
        self,
        old: Float[Tensor, "rollouts tokens"],
        sampled: Float[Tensor, "rollouts tokens"],
        mask: Bool[Tensor, "rollouts tokens"],
    ) -> Bool[Tensor, "rollouts tokens"]:
        """Return True at the tokens whose weight is not the plain ratio: a bound caught it."""
        free = weights(old, sampled, mask, self.mode, self.level, 0.0, float("inf"))
        return mask & (self(old, sampled, mask) != free)
