"""Scores of a general preference model: pairs of entries, one skew-symmetric game for each axis.

Source: GPM, arXiv 2410.02197, Definition 4.3 and the authors' code (its §4.2 has the opposite
sign); group scores: GPRL, arXiv 2605.18721. Scores are in units of the preference logit times
tau, and leave the eigenvalues out: `total_scores` puts them in.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.options import ScoreShape


def axis_pairs(vectors: Float[Tensor, "*batch two_axes"]) -> Float[Tensor, "*batch axes 2"]:
    """Return the two coordinates of each axis: axis l owns entries 2l and 2l + 1 (GPM)."""
    return vectors.reshape(*vectors.shape[:-1], -1, 2)


def _cross(
    left: Float[Tensor, "*#batch axes entries"], right: Float[Tensor, "*#batch axes entries"]
) -> Float[Tensor, "*batch axes"]:
    """Sum of 2-D cross products over an axis's planes. Swapping the arguments flips the sign."""
    left, right = axis_pairs(left), axis_pairs(right)  # each axis's planes
    return (left[..., 0] * right[..., 1] - left[..., 1] * right[..., 0]).sum(-1)


def pairwise_scores(
    vectors: Float[Tensor, "groups size axes entries"],
) -> Float[Tensor, "groups size size axes"]:
    """Return ``s_l(i, j)``: how far response i beats response j along axis l (GPM, Definition 4.3).

    Exactly skew-symmetric: ``s_l(i, j) == -s_l(j, i)``, and 0 on the diagonal.

    >>> vectors = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # one prompt, two answers, one axis
    >>> pairwise_scores(vectors)[0, :, :, 0].tolist()
    [[0.0, 1.0], [-1.0, 0.0]]
    """
    return scores_against(vectors, vectors)


def scores_against(
    vectors: Float[Tensor, "groups size axes entries"],
    anchors: Float[Tensor, "groups anchors axes entries"],
) -> Float[Tensor, "groups size anchors axes"]:
    """Return ``s_l(y_i, a_j)`` of each response against each of its prompt's anchor responses
    (GPM)."""
    return _cross(vectors[:, :, None], anchors[:, None, :])


def group_scores(
    vectors: Float[Tensor, "groups size axes entries"],
    score_shape: ScoreShape = "linear",
    tau: float = 1.0,
) -> Float[Tensor, "groups size axes"]:
    """Return the mean score against the rest of the group, ``1/(G-1) · Σ_{j≠i} s_l(i, j)``
    (GPRL, step 1).

    In O(G · k), as the cross product of ``v_i`` with ``Σ_j (v_j - v_i)``; ``v_i × v_i = 0`` makes
    this the cross product with ``Σ_j v_j``, but the differences keep their digits where the
    responses are nearly alike, and give exactly 0 where they are equal. Needs G >= 2.

    Args:
        vectors: of each response.
        score_shape: ``bounded`` takes ``σ(s_l(i, j) / tau) - ½``, the chance of winning less that
            of a tie, in place of ``s_l``, from the G × G matrix (ours): how far a response is
            ahead then counts for little. It too sums to 0 over the group.
        tau: temperature of the bounded score.

    >>> rewards = torch.tensor([[[3.0], [1.0], [2.0]]])  # as an axis: (r, 1) scores by differences
    >>> vectors = torch.stack([rewards, torch.ones_like(rewards)], -1)
    >>> group_scores(vectors)[0, :, 0].tolist()
    [1.5, -1.5, 0.0]
    """
    size = vectors.shape[1]
    if score_shape == "bounded":
        return torch.tanh(pairwise_scores(vectors) / (2 * tau)).sum(2) / (2 * (size - 1))
    offsets = vectors - vectors[:, :1]
    to_others = offsets.sum(1, keepdim=True) - size * offsets
    return _cross(vectors, to_others) / (size - 1)


def total_scores(
    scores: Float[Tensor, "*#batch axes"], eigenvalues: Float[Tensor, "*#batch axes"]
) -> Float[Tensor, "*batch"]:
    """Return the preference score over all axes, ``Σ_l λ_l s_l`` (GPM); the arguments broadcast."""
    return (scores * eigenvalues).sum(-1)


def win_probability(scores: Float[Tensor, "*batch"], tau: float) -> Float[Tensor, "*batch"]:
    """Return ``P(i ≻ j) = sigmoid(s / tau)`` of total scores (GPM; tau 0.1 in the published
    models)."""
    return torch.sigmoid(scores / tau)
