"""The policy-gradient loss by token: clipped surrogate, KL penalty, and the weights of their sum.

The loss of a minibatch is ``Σ weights · (surrogate + β · kl)`` over its tokens. The weights hold
the normaliser of the whole minibatch, so the losses of micro-batches and of processes simply add
up.

    logprobs = zero_outside(mask, policy_logprobs)
    per_token, ratio, clipped = clipped_surrogate(logprobs, old_logprobs, advantages, 0.2, None)
    loss = masked_sum(per_token, token_weights(mask, ...), mask)
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gprl_lightning.core.options import KLEstimator, LossAggregation

# exp of more than this (a ratio of 5e8) would overflow float32 and, through 0 · inf, put a NaN into
# the gradient of tokens that are clipped anyway. Above it the gradient is 0.
LOG_RATIO_LIMIT = 20.0


def zero_outside(
    mask: Bool[Tensor, "rows tokens"], values: Float[Tensor, "rows tokens"]
) -> Float[Tensor, "rows tokens"]:
    """Return the values on real tokens, 0 elsewhere, with a gradient of exactly 0 there.

    For log-probabilities, before anything takes their exp: padding may hold NaN or inf, and a
    mask that is applied only to the loss still lets 0 · inf = NaN through the backward pass of
    exp.
    """
    return torch.where(mask, values, 0.0)


def masked_sum(
    per_token: Float[Tensor, "rows tokens"],
    weights: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
) -> Float[Tensor, ""]:
    """Return ``Σ weights · per_token`` over real tokens, whatever stands on the others, NaN
    included."""
    return (zero_outside(mask, per_token) * weights).sum()


def clipped_surrogate(
    logprobs: Float[Tensor, "rows tokens"],
    old_logprobs: Float[Tensor, "rows tokens"],
    advantages: Float[Tensor, " rows"],
    epsilon: float,
    epsilon_high: float | None,
) -> tuple[Float[Tensor, "rows tokens"], Float[Tensor, "rows tokens"], Bool[Tensor, "rows tokens"]]:
    """Return PPO's clipped surrogate, as a loss (GRPO, arXiv 2402.03300).

    Args:
        logprobs: log π_θ of the sampled tokens; finite (see `zero_outside`).
        old_logprobs: log π_old of the same tokens.
        advantages: one for each response.
        epsilon: the ratio is clipped below at 1 - ε.
        epsilon_high: and above at 1 + ε_high (DAPO's clip-higher, arXiv 2503.14476); None means ε.

    Returns:
        The loss ``-min(ratio · A, clip(ratio) · A)`` of each token; the ratio π_θ / π_old, without
        gradient; and True where the clipped branch is the smaller one, so that the token has no
        gradient.
    """
    ratio = (logprobs - old_logprobs).clamp(max=LOG_RATIO_LIMIT).exp()
    advantage = advantages[:, None]
    high = epsilon if epsilon_high is None else epsilon_high
    free = ratio * advantage
    bounded = ratio.clamp(1 - epsilon, 1 + high) * advantage
    return -torch.minimum(free, bounded), ratio.detach(), (bounded < free).detach()


def kl_estimate(
    logprobs: Float[Tensor, "rows tokens"],
    ref_logprobs: Float[Tensor, "rows tokens"],
    estimator: KLEstimator,
) -> Float[Tensor, "rows tokens"]:
    """Estimate KL(π_θ ‖ π_ref) at each sampled token, in nats.

    Source: Schulman, "Approximating KL divergence" (2020).
    With ``d = log π_ref - log π_θ``: k1 is ``-d`` (unbiased), k2 is ``d² / 2``, k3 is
    ``exp(d) - d - 1`` (unbiased and never negative; GRPO's).

    As a loss on the policy's own samples each pulls by another divergence: the expected gradient
    of k1 is 0, that of k2 is KL(π_θ ‖ π_ref)'s, that of k3 is KL(π_ref ‖ π_θ)'s (Tang and Munos,
    arXiv 2506.09477). k3 measures the one and pulls by the other.
    """
    difference = ref_logprobs - logprobs
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    bounded = difference.clamp(max=LOG_RATIO_LIMIT)
    return bounded.expm1() - bounded


def token_weights(
    mask: Bool[Tensor, "rows tokens"],
    aggregation: LossAggregation,
    num_rollouts: int,
    num_tokens: int,
    max_tokens: int,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "rows tokens"]:
    """Weight of each token in the loss; 0 outside the mask.

    Args:
        mask: True on sampled tokens.
        aggregation: ``dr_grpo``, a constant ``1 / (num_rollouts · max_tokens)`` (arXiv 2503.20783);
            ``dapo``, the mean over tokens ``1 / num_tokens`` (arXiv 2503.14476); ``grpo``, the
            mean over responses of their mean ``1 / (num_rollouts · length)`` (arXiv 2402.03300).
        num_rollouts: responses in the whole minibatch, over all micro-batches and processes.
        num_tokens: sampled tokens in the whole minibatch, likewise.
        max_tokens: the longest response that the sampler may give.
        dtype: of the log-probabilities.
    """
    if aggregation == "dr_grpo":
        scale = torch.full((), 1.0 / (num_rollouts * max_tokens), dtype=dtype, device=mask.device)
    elif aggregation == "dapo":
        scale = torch.full((), 1.0 / max(num_tokens, 1), dtype=dtype, device=mask.device)
    else:
        scale = 1.0 / (num_rollouts * mask.sum(1, keepdim=True)).to(dtype)
    return torch.where(mask, scale, 0.0)


def expected_weight_sums(
    num_rollouts: float,
    num_tokens: float,
    inverse_lengths: float,
    aggregation: LossAggregation,
    max_tokens: int,
) -> tuple[float, float]:
    """Return what the weights of a whole minibatch, and what their squares, sum to. Ours.

    Weights made from the counts of a micro-batch or of one process give another sum, or, if only
    their mean is right, another sum of squares.

    Args:
        num_rollouts: responses in the whole minibatch, all with at least one token.
        num_tokens: their tokens.
        inverse_lengths: Σ 1 / length over them.
        aggregation: as in `token_weights`.
        max_tokens: likewise.
    """
    if aggregation == "dr_grpo":
        weight = 1 / (num_rollouts * max_tokens)
        return num_tokens * weight, num_tokens * weight**2
    if aggregation == "dapo":
        return 1.0, 1 / num_tokens
    return 1.0, inverse_lengths / num_rollouts**2
