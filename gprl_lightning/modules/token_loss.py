"""The loss of each token, and its slope, which the policy is told ahead of the backward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gprl_lightning.config import AlgorithmConfig
from gprl_lightning.core.batch import Minibatch
from gprl_lightning.core.logprobs import Slope
from gprl_lightning.core.losses import clipped_surrogate, kl_estimate


@dataclass(frozen=True)
class TokenLoss:
    """The two terms of ``surrogate + β · kl`` at each token, and what is logged of them.

    Attributes:
        surrogate: the clipped surrogate, negated.
        kl: estimate of KL(π_θ ‖ π_ref), in nats.
        ratio: π_θ / π_old, without gradient.
        clipped: whether the token is clipped, so that the surrogate has no gradient.
    """

    surrogate: Float[Tensor, "rows tokens"]
    kl: Float[Tensor, "rows tokens"]
    ratio: Float[Tensor, "rows tokens"]
    clipped: Bool[Tensor, "rows tokens"]


def token_loss(
    logprobs: Float[Tensor, "rows tokens"],
    old_logprobs: Float[Tensor, "rows tokens"],
    ref_logprobs: Float[Tensor, "rows tokens"],
    advantages: Float[Tensor, " rows"],
    cfg: AlgorithmConfig,
) -> TokenLoss:
    """By `clipped_surrogate` and `kl_estimate`, with the options of the algorithm."""
    surrogate, ratio, clipped = clipped_surrogate(
        logprobs, old_logprobs, advantages, cfg.clip_epsilon, cfg.clip_epsilon_high
    )
    kl = kl_estimate(logprobs, ref_logprobs, cfg.kl_estimator)
    return TokenLoss(surrogate, kl, ratio, clipped)


def loss_slope(
    batch: Minibatch, weights: Float[Tensor, "rows tokens"], cfg: AlgorithmConfig, kl_coef: float
) -> Slope:
    """The derivative of ``Σ weights · (importance · surrogate + β · kl)`` by each log-probability.

    The loss is a sum over tokens, so that this is known as soon as the log-probability is.
    """
    mask = batch.response_mask
    rows = mask.nonzero()[:, 0]
    values = (batch.old_logprobs, batch.ref_logprobs, batch.importance, weights)
    old, reference, importance, weight = (value[mask][:, None] for value in values)
    advantages = batch.advantages[rows]

    def slope(logprobs: Tensor, part: slice) -> Tensor:
        with torch.enable_grad():
            leaf = logprobs.detach()[:, None].requires_grad_()
            terms = token_loss(leaf, old[part], reference[part], advantages[part], cfg)
            surrogate = importance[part] * terms.surrogate
            total = ((surrogate + kl_coef * terms.kl) * weight[part]).sum()
        return torch.autograd.grad(total, leaf)[0][:, 0]

    return slope
