"""The sums that one optimiser step adds up over its micro-batches and processes, by name."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class UpdateSums(NamedTuple, Generic[T]):
    """Sums of one optimiser step; packed in this order, they are one tensor to reduce.

    Attributes:
        loss: the micro-batches' shares of the loss.
        policy_loss: likewise, without the KL penalty.
        kl: of the tokens' KL estimates, in nats.
        clipped: tokens whose gradient is cut.
        entropy: of the tokens' entropies, in nats.
        tokens: their number.
        weights: of the tokens' weights in the loss.
        squared_weights: of the squares of these.
        rollouts: their number.
        inverse_lengths: of 1 / length over the rollouts.
    """

    loss: T
    policy_loss: T
    kl: T
    clipped: T
    entropy: T
    tokens: T
    weights: T
    squared_weights: T
    rollouts: T
    inverse_lengths: T
