"""The loss of one optimiser step, as a sum over its micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gprl_lightning.config import AlgorithmConfig
from gprl_lightning.core.batch import Minibatch
from gprl_lightning.core.chi_squared import chi_squared_by_token
from gprl_lightning.core.losses import kl_estimate, masked_sum, token_weights, zero_outside
from gprl_lightning.core.policy_loss import PolicyLoss, PolicyTerms, slope_of
from gprl_lightning.models.policy import Policy
from gprl_lightning.runtime.processes import sum_over_processes


class LossTerms(NamedTuple):
    """A micro-batch's share of the loss, and what it is made of, token by token.

    Attributes:
        loss: the share; shares add up to the loss of the optimiser step.
        policy_loss: likewise, without the KL penalty.
        policy: the policy loss's own terms.
        logprobs: log π_θ, in nats; 0 outside the responses.
        kl: the KL estimates, in nats.
        entropy: of the policy's distributions, in nats.
        weights: of the tokens in the loss.
    """

    loss: Float[Tensor, ""]
    policy_loss: Float[Tensor, ""]
    policy: PolicyTerms
    logprobs: Float[Tensor, "rows tokens"]
    kl: Float[Tensor, "rows tokens"]
    entropy: Float[Tensor, "rows tokens"]
    weights: Float[Tensor, "rows tokens"]


class Sizes(NamedTuple):
    """How much one optimiser step takes in, over all micro-batches and processes."""

    rollouts: int
    tokens: int


def minibatch_sizes(lengths: Int[Tensor, " rows"]) -> Sizes:
    """Sum the rollouts and the response tokens of every process's minibatch."""
    counts = torch.tensor([len(lengths), int(lengths.sum())])
    return Sizes(*sum_over_processes(counts).tolist())


@dataclass(frozen=True)
class MinibatchLoss:
    """Σ weights · (importance · policy loss + β · KL + c · χ²) over the tokens (METHOD §2).

    Attributes:
        policy_loss: the loss of each token.
        kl_coef: β.
        algorithm: which KL estimator, and how the tokens' weights are made.
        max_new_tokens: the longest response, for ``loss_aggregation=dr_grpo``.
        chi2_weight: c, of each response's χ² term, see `modules.chi_squared`; 0: without.
    """

    policy_loss: PolicyLoss
    kl_coef: float
    algorithm: AlgorithmConfig
    max_new_tokens: int
    chi2_weight: float = 0.0

    def __call__(self, policy: Policy, batch: Minibatch, sizes: Sizes) -> LossTerms:
        """Run the policy on one micro-batch of a minibatch of these ``sizes``."""
        cfg, mask = self.algorithm, batch.response_mask
        dtype = torch.promote_types(next(policy.parameters()).dtype, torch.float32)
        weights = token_weights(mask, cfg.loss_aggregation, *sizes, self.max_new_tokens, dtype)
        reach = "sequence" if self.chi2_weight else self.policy_loss.reach
        logprobs, entropy = policy(
            batch.prompt_ids,
            batch.prompt_mask,
            batch.response_ids,
            mask,
            slope_of(self._of_each_token, batch, weights, reach),
            batch.known,
        )
        logprobs = zero_outside(mask, logprobs)
        terms = self.policy_loss(logprobs, batch)
        kl = kl_estimate(logprobs, batch.ref_logprobs, cfg.kl_estimator)
        policy_loss = masked_sum(batch.importance * terms.loss, weights, mask)
        loss = policy_loss + self.kl_coef * masked_sum(kl, weights, mask)
        if self.chi2_weight:
            chi2 = chi_squared_by_token(logprobs, batch.ref_logprobs, mask)
            loss = loss + self.chi2_weight * masked_sum(chi2, weights, mask)
        return LossTerms(loss, policy_loss, terms, logprobs, kl, entropy, weights)

    def _of_each_token(self, logprobs: Tensor, batch: Minibatch) -> Tensor:
        kl = kl_estimate(logprobs, batch.ref_logprobs, self.algorithm.kl_estimator)
        loss = self.policy_loss(logprobs, batch).loss
        return batch.importance * loss + self.kl_coef * kl
