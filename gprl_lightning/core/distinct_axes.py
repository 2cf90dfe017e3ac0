"""What pulls the axes of a preference model apart while it is trained. All of it ours.

Axes that are copies of one scalar turn GPRL into a scalar method. Each function here is a term of
the training loss; their weights are options, and off by default.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12  # keeps a silent axis's correlation finite


def correlation_penalty(scores: Float[Tensor, "pairs axes"]) -> Float[Tensor, ""]:
    """Mean squared correlation between two axes' scores of the pairs; 0 for a single axis.

    Without centring: a pair is a group of two, whose group scores are s and -s, of mean 0, so this
    is the correlation of group scores that the evaluation reports.
    """
    axes = scores.shape[-1]
    if axes == 1:
        return scores.new_zeros(())
    products = scores.T @ scores
    power = products.diagonal() + TINY
    squares = products.square() / (power * power[:, None])
    return (squares.sum() - squares.diagonal().sum()) / (axes * (axes - 1))


def gate_information(eigenvalues: Float[Tensor, "rows axes"]) -> Float[Tensor, ""]:
    """Return how much λ(x) depends on the prompt: H(mean λ) − mean H(λ), in nats; 0 for a constant
    gate.

    Of λ scaled to sum 1. At most ln(axes), where every prompt has an axis of its own and all axes
    are used.
    """
    shares = eigenvalues / eigenvalues.sum(-1, keepdim=True)
    return _entropy(shares.mean(0)) - _entropy(shares).mean()


def attribute_loss(
    scores: Float[Tensor, "pairs axes"], labels: Float[Tensor, "pairs attributes"], tau: float
) -> Float[Tensor, ""]:
    """Return the cross-entropy of σ(s_l/τ) for attribute l on axis l; axes beyond the attributes
    are free."""
    logits = scores[:, : labels.shape[1]] / tau
    return F.binary_cross_entropy_with_logits(logits, labels)


def _entropy(shares: Float[Tensor, "*rows axes"]) -> Float[Tensor, "*rows"]:
    return -(shares * shares.clamp(min=TINY).log()).sum(-1)
