"""What a preference model's axes are: the gate by subset, axes against attributes, and how far the
axes are identified at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gprl_lightning.core.axis_identification import (
    Groups,
    advantage_correlations,
    advantages_of,
    correlation,
)
from gprl_lightning.core.axis_rotation import (
    joint_rotation,
    principal_rotation,
    random_rotation,
    score_matrices,
)
from gprl_lightning.core.preference import axis_pairs, scores_against
from gprl_lightning.data.preferences import PreferencePair

ROTATIONS = 100  # at random
QUANTILES = {"least": 0.0, "q05": 0.05, "median": 0.5, "most": 1.0}


def gate_by_subset(eigenvalues: Tensor, subsets: Sequence[str]) -> dict[str, Any]:
    """Return the mean λ of each subset's prompts, and how well λ tells the subset.

    Args:
        eigenvalues: of each prompt: [prompts, axes].
        subsets: of each prompt.

    Returns:
        ``by_subset``, and ``subset_from_gate``: the share of prompts whose λ is nearest to the mean
        λ of their own subset, of which they are left out; None with fewer than two subsets of two
        prompts. ``chance``: the share of the largest subset.
    """
    names = sorted(set(subsets))
    member = torch.tensor([names.index(s) for s in subsets])
    wide = eigenvalues.double()
    sums = torch.zeros(len(names), wide.shape[1]).double().index_add_(0, member, wide)
    counts = member.bincount(minlength=len(names))
    by_subset = {
        name: {"prompts": int(n), "eigenvalues": (total / n).tolist()}
        for name, n, total in zip(names, counts, sums, strict=True)
    }
    chance = float(counts.max() / counts.sum())
    usable = counts >= 2
    if int(usable.sum()) < 2:
        return {"by_subset": by_subset, "subset_from_gate": None, "chance": chance}
    hits = []
    for value, own in zip(wide[usable[member]], member[usable[member]].tolist(), strict=True):
        centres = sums / counts[:, None]
        centres[own] = (sums[own] - value) / (counts[own] - 1)
        distances = (centres - value).square().sum(-1).masked_fill(~usable, torch.inf)
        hits.append(float(distances.argmin() == own))
    found = sum(hits) / len(hits)
    return {"by_subset": by_subset, "subset_from_gate": found, "chance": chance}


def axes_against_attributes(
    vectors: Tensor, pairs: Sequence[PreferencePair]
) -> dict[str, list[float]]:
    """Return, for each attribute that all pairs have, the correlation over pairs of each axis's
    score of (chosen, rejected) with P(the chosen one has more of it) − ½.

    Without centring, because which side is called chosen says nothing.

    Args:
        vectors: of both sides: [pairs, 2, 2 axes].
        pairs: the same ones.
    """
    sides = axis_pairs(vectors.double())
    scores = scores_against(sides[:, :1], sides[:, 1:])[:, 0, 0]
    shared = [n for n in pairs[0].attributes if all(n in pair.attributes for pair in pairs)]
    found: dict[str, list[float]] = {}
    for name in shared:
        more = torch.tensor([pair.attributes[name] for pair in pairs]).double() - 0.5
        scale = scores.norm(dim=0) * more.norm()
        found[name] = ((scores.T @ more) / scale.clamp(min=1e-30)).tolist()
    return found


def identification(
    groups: Sequence[Groups], sides: Tensor, eigenvalues: Tensor, seed: int = 0
) -> dict[str, Any]:
    """Return how far advantages hang on the choice of axes, which no label of pairs decides.

    Args:
        groups: all answers by prompt.
        sides: vectors of both answers of each pair: [pairs, 2, 2 axes].
        eigenvalues: of each pair: [pairs, axes].

    Returns:
        ``correlation``: quantiles, over random rotations that leave every score as it was, of the
        correlation of GPRL's advantages with those of the axes as they are. ``principal``,
        ``joint``: the same for the canonical axes. ``one_z_score``: of the axes as they are, the
        correlation with a single z-score of the total score, which no rotation changes.
    """
    axes = eigenvalues.shape[1]
    generator = torch.Generator().manual_seed(seed)
    matrices = score_matrices(axis_pairs(sides.double()), eigenvalues.double())
    random = [random_rotation(axes, generator) for _ in range(ROTATIONS)]
    canonical = [principal_rotation(matrices), joint_rotation(matrices)]
    found = advantage_correlations(groups, [*random, *canonical])
    plain, single = advantages_of(groups), advantages_of(groups, "global")
    spread = {name: float(found[:ROTATIONS].quantile(q)) for name, q in QUANTILES.items()}
    return {
        "rotations": ROTATIONS,
        "responses": len(plain),
        "correlation": spread,
        "principal": float(found[-2]),
        "joint": float(found[-1]),
        "one_z_score": correlation(plain, single),
    }


def by_size(groups: Sequence[tuple[Tensor, Tensor]]) -> list[Groups]:
    """Stack groups of equal size.

    Args:
        groups: vectors of the answers to a prompt, [size, 2 axes], and its λ.
    """
    sizes: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for vectors, eigenvalues in groups:
        sizes.setdefault(len(vectors), []).append((axis_pairs(vectors), eigenvalues))
    return [
        (torch.stack([v for v, _ in part]), torch.stack([e for _, e in part]))
        for part in sizes.values()
    ]
