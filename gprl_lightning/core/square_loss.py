"""Regression of log-ratios on a game's gains: SPPO and GPO, and the choice of best and worst.

In a round the policy π_t answers each prompt several times, and a preference source says how far
each answer is ahead of each other one. The next policy solves ``log π/π_t = gain / β``, by least
squares over the best and the worst answer of each prompt.

    targets = SPPO(beta=1e-3)(logits)          # groups, size; nats
    rows = best_and_worst(targets)             # groups, 2
    loss = square_loss(log_ratios, targets.gather(1, rows)).mean()
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

Probability = Literal["soft", "hard"]


class GroupTargets(Protocol):
    """From a group's pairwise logits to the log-ratio that each response is to reach; pure."""

    def __call__(self, logits: Float[Tensor, "groups size size"]) -> Float[Tensor, "groups size"]:
        """Return the targets, in nats.

        Args:
            logits: ``s(i ≻ j) / τ``, skew-symmetric; σ of it is the chance that i beats j.
        """
        ...


@dataclass(frozen=True)
class SPPO:
    """Compute ``(P(y ≻ π_t) − ½) / β`` of each response.

    Source: SPPO, arXiv 2405.00675, equation 4.6 (η = 1/β) and algorithm 1. As in the authors' code,
    P is the mean over all responses of the group, the response itself (½) included.

    Attributes:
        beta: β; 1e-3 in the paper (η = 1e3).
        probability: ``hard`` puts P = 1 for the best and P = 0 for the worst response, as TRL's
            ``sppo_hard``; the others keep ½, and so do all where none is ahead.
    """

    beta: float = 1e-3
    probability: Probability = "soft"

    def __call__(self, logits: Float[Tensor, "groups size size"]) -> Float[Tensor, "groups size"]:
        """Return the targets, in nats; they sum to 0 over each group."""
        # tanh is odd to the bit, so that ties and sums to 0 stay exact where 1 − σ would round.
        gains = (torch.tanh(logits / 2) / 2).mean(2)
        if self.probability == "hard":
            best_worst = best_and_worst(gains)
            ahead = gains.gather(1, best_worst[:, :1]) > gains.gather(1, best_worst[:, 1:])
            half = torch.where(ahead, 0.5, 0.0).to(gains)
            hard = torch.zeros_like(gains)
            gains = hard.scatter(1, best_worst, torch.cat([half, -half], 1))
        return gains / self.beta


@dataclass(frozen=True)
class GPO:
    """Compute ``s(y ≻ π_t) / (τ β)`` of each response: the score in the place of its probability.

    Source: General Preference Optimization, arXiv 2410.02197, section 5, and the authors' public
    scripts (β = 1e-3, five responses, best against worst by mean score). Their trainer was never
    published. Our reading: the score is the logit s/τ, taken once (their table, less its own
    transpose, holds it twice); its mean is over the whole group; and the log of the partition
    function, for which SPPO puts the mean of P, ½, is likewise the mean of the scores, which is 0
    by skew symmetry.

    Attributes:
        beta: β; 1e-3 in the scripts.
    """

    beta: float = 1e-3

    def __call__(self, logits: Float[Tensor, "groups size size"]) -> Float[Tensor, "groups size"]:
        """Return the targets, in nats; they sum to 0 over each group."""
        return logits.mean(2) / self.beta


def best_and_worst(quality: Float[Tensor, "groups size"]) -> Int[Tensor, "groups 2"]:
    """Return the places of the best and of the worst response of each group; needs size >= 2.

    They are never the same one: among equals the first is the best and the last the worst (ours).
    """
    best = quality.argmax(1)
    worst = quality.shape[1] - 1 - quality.flip(1).argmin(1)
    return torch.stack([best, worst], 1)


def square_loss(
    log_ratios: Float[Tensor, "*batch"], targets: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Return ``(log π_θ/π_t − target)²`` of each response (SPPO, arXiv 2405.00675, eq. 4.7)."""
    return (log_ratios - targets).square()
