"""Policy losses: from log-probabilities to a term for each token, and its slope by autograd.

A loss is a function of the tokens' log-probabilities and of the batch that they belong to. The
module sums its terms with the minibatch's weights and adds the KL penalty; no loss knows of
micro-batches, processes or β.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gprl_lightning.core.batch import Minibatch
from gprl_lightning.core.host_tokens import places_of
from gprl_lightning.core.logprobs import Slope
from gprl_lightning.core.losses import LOG_RATIO_LIMIT, clipped_surrogate
from gprl_lightning.core.ranges import require_range

Reach = Literal["token", "sequence"]


@dataclass(frozen=True)
class PolicyTerms:
    """What a policy loss gives.

    Attributes:
        loss: of each token; its weighted sum is minimised.
        ratio: π_θ / π_old as the loss uses it, without gradient, for logging.
        clipped: whether the token's gradient is cut, for logging.
    """

    loss: Float[Tensor, "rows tokens"]
    ratio: Float[Tensor, "rows tokens"]
    clipped: Bool[Tensor, "rows tokens"]


@runtime_checkable
class PolicyLoss(Protocol):
    """From log-probabilities and batch to per-token terms; pure."""

    @property
    def reach(self) -> Reach:
        """What a term depends on: its own token's log-probability, or those of its sequence."""
        ...

    def __call__(self, logprobs: Float[Tensor, "rows tokens"], batch: Minibatch) -> PolicyTerms:
        """The terms. ``logprobs`` is 0 outside ``batch.response_mask``; what stands there in the
        result is not read."""
        ...


@dataclass(frozen=True)
class Clip:
    """PPO's clipped surrogate (GRPO, arXiv 2402.03300); ``epsilon_high`` is DAPO's clip-higher.

    >>> Clip(epsilon=0.2, epsilon_high=0.28).reach
    'token'
    """

    epsilon: float = 0.2
    epsilon_high: float | None = None
    reach: Reach = "token"

    def __post_init__(self) -> None:
        key, low, high = "algorithm.policy_loss", self.epsilon, self.epsilon_high
        require_range(f"{key}.epsilon", 0 < low < 1, low, "a number in (0, 1)")
        require_range(f"{key}.epsilon_high", high is None or high > 0, high, "null, or > 0")

    def __call__(self, logprobs: Float[Tensor, "rows tokens"], batch: Minibatch) -> PolicyTerms:
        old, advantages = batch.old_logprobs, batch.advantages
        return PolicyTerms(
            *clipped_surrogate(logprobs, old, advantages, self.epsilon, self.epsilon_high)
        )


@dataclass(frozen=True)
class CISPO:
    """The ratio is clipped and held fixed; every token keeps a gradient (arXiv 2506.13585).

    Attributes:
        epsilon_high: a ratio counts as 1 + ε_high at most. The paper names no value; a bound of 5
            is ScaleRL's (arXiv 2510.13786).
    """

    epsilon_high: float = 4.0
    reach: Reach = "token"

    def __post_init__(self) -> None:
        high = self.epsilon_high
        require_range("algorithm.policy_loss.epsilon_high", high >= 0, high, "a number >= 0")

    def __call__(self, logprobs: Float[Tensor, "rows tokens"], batch: Minibatch) -> PolicyTerms:
        ratio = (logprobs - batch.old_logprobs).clamp(max=LOG_RATIO_LIMIT).exp().detach()
        bound = 1 + self.epsilon_high
        loss = -ratio.clamp(max=bound) * batch.advantages[:, None] * logprobs
        return PolicyTerms(loss, ratio, ratio > bound)


@dataclass(frozen=True)
class AtOldPolicy:
    """A loss where π_θ still is π_old: its ratio is exactly 1, and has its gradient. Ours."""

    loss: PolicyLoss

    @property
    def reach(self) -> Reach:
        return self.loss.reach

    def __call__(self, logprobs: Float[Tensor, "rows tokens"], batch: Minibatch) -> PolicyTerms:
        return self.loss(logprobs, replace(batch, old_logprobs=logprobs.detach()))


Objective = Callable[[Float[Tensor, "rows tokens"], Minibatch], Float[Tensor, "rows tokens"]]


def slope_of(
    objective: Objective, batch: Minibatch, weights: Float[Tensor, "rows tokens"], reach: Reach
) -> Slope | None:
    """Return the derivative of ``Σ weights · objective`` by each log-probability, by autograd.

    The output layer asks for it chunk by chunk, in the order of ``response_mask.nonzero()``, when
    the other log-probabilities are not there yet. Each chunk is put into its rows, whole, with
    log π_old in the place of what is unknown: where a term reaches no further than its token, that
    changes nothing. A loss whose terms reach over the sequence has no slope to tell ahead (None):
    its gradients are made in the backward pass.
    """
    if reach != "token":
        return None
    rows, columns = batch.places
    row_of = places_of(batch.known.lengths)[0]

    def slope(logprobs: Tensor, part: slice) -> Tensor:
        here = row_of[part]
        first, last = int(here[0]), int(here[-1])
        touched = batch.between(first, last + 1)
        leaf = logprobs.detach().requires_grad_()
        with torch.enable_grad():
            known = touched.old_logprobs.to(leaf).index_put(
                (rows[part] - first, columns[part]), leaf
            )
            total = (objective(known, touched) * weights[first : last + 1]).sum()
        return torch.autograd.grad(total, leaf)[0]

    return slope
