"""A pair of responses: its score, its loss, and whether the score names the winner."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gprl_lightning.core.preference import axis_pairs, scores_against, total_scores


def pair_axis_scores(
    vectors: Float[Tensor, "rows two_axes"],
) -> Float[Tensor, "pairs axes"]:
    """Return s_l(chosen, rejected), without λ, of rows that hold chosen and rejected in turn."""
    pairs = vectors.reshape(-1, 2, vectors.shape[-1])
    return scores_against(axis_pairs(pairs[:, :1]), axis_pairs(pairs[:, 1:]))[:, 0, 0]


def pair_scores(
    vectors: Float[Tensor, "rows two_axes"], eigenvalues: Float[Tensor, "rows axes"]
) -> Float[Tensor, " pairs"]:
    """Return s(chosen ≻ rejected | x) of rows that hold chosen and rejected in turn.

    λ depends on the prompt alone, so that the chosen row's speaks for both.
    """
    return total_scores(pair_axis_scores(vectors), eigenvalues[::2])


def pair_loss(
    scores: Float[Tensor, " pairs"],
    labels: Float[Tensor, " pairs"],
    margins: Float[Tensor, " pairs"],
    tau: float,
) -> Float[Tensor, " pairs"]:
    """Return the cross-entropy of the label p: ``−p log σ((s − m)/τ) − (1 − p) log σ((−s − m)/τ)``
    (GPM's code).

    With p = 1 and m = 0 this is the published ``−log σ(s/τ)``. For labels between 0 and 1 the
    margin is asked of whichever side wins (ours).
    """
    won, lost = F.logsigmoid((scores - margins) / tau), F.logsigmoid((-scores - margins) / tau)
    return -labels * won - (1 - labels) * lost


def pair_accuracy(
    scores: Float[Tensor, " pairs"], labels: Float[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """Return 1 where the score names the likelier winner, 0 where the other, ½ where undecided."""
    return (1 + torch.sign(scores) * torch.sign(labels - 0.5)) / 2
