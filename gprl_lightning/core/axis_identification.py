"""How far a model's axes are identified: what rotations do to GPRL's advantages. Ours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from gprl_lightning.core.advantages import aggregate_axes, normalize_axes
from gprl_lightning.core.axis_rotation import rotated
from gprl_lightning.core.options import Normalization
from gprl_lightning.core.preference import group_scores

# Vectors [groups, size, axes, 2] and eigenvalues [groups, axes] of groups of one size.
Groups = tuple[Tensor, Tensor]


def advantages_of(
    groups: Sequence[Groups],
    normalization: Normalization = "per_axis",
    rotation: Complex[Tensor, "axes axes"] | None = None,
) -> Float[Tensor, " responses"]:
    """Return the advantages of all responses (GPRL, steps 1 to 3, without multipliers or masks).

    Args:
        groups: vectors and eigenvalues, those of equal size together.
        normalization: ``per_axis``, or ``global`` for one z-score.
        rotation: of the axes, before anything else.
    """
    found: list[Tensor] = []
    for vectors, eigenvalues in groups:
        v, weights = vectors.double(), eigenvalues.double()[:, None]
        if rotation is not None:
            v, weights = rotated(v, weights, rotation)
        by_axis = normalize_axes(group_scores(v), normalization)
        rest = torch.ones(v.shape[2], dtype=v.dtype, device=v.device)
        total = aggregate_axes(by_axis, weights[:, 0], rest, normalization, "eigenvalue", "paper")
        found.append(total.flatten())
    return torch.cat(found)


def correlation(left: Float[Tensor, " n"], right: Float[Tensor, " n"]) -> float:
    """Return Pearson's correlation; 0 if one of them is constant."""
    a, b = left - left.mean(), right - right.mean()
    scale = float((a.square().sum() * b.square().sum()).sqrt())
    return float(a @ b) / scale if scale > 0 else 0.0


def advantage_correlations(
    groups: Sequence[Groups], rotations: Sequence[Complex[Tensor, "axes axes"]]
) -> Float[Tensor, " rotations"]:
    """Return, for each rotation, the correlation of the rotated model's advantages with those of
    the model as it is. 1 for all of them: the choice of axes does not matter."""
    plain = advantages_of(groups)
    found = [correlation(plain, advantages_of(groups, rotation=r)) for r in rotations]
    return torch.tensor(found, dtype=torch.float64)
