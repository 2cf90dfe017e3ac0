"""Rotations of a preference model's axes that leave every score as it was. All of it ours.

Write the two entries of axis l as one complex number and fold λ into it, z_l = √λ_l (v[2l] + i
v[2l+1]). The score is then s(i, j) = Im(z_i† z_j): a unitary Q in front of all z changes no score,
no probability and no accuracy. Labels of pairs therefore do not tell a model from the rotated one.
GPRL normalises each axis by itself, and its advantages do differ.

A rotated axis mixes the old ones. Its weight is the mixture of theirs, λ'_l = Σ_m |Q_lm|² λ_m. The
weights keep their sum, and are λ where Q is the identity.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

LINALG: Any = torch.linalg  # its functions have no types
TINY = 1e-12  # keeps a weight of 0 from dividing
SWEEPS = 100  # of the joint diagonalisation, at most
SETTLED = 1e-9  # the largest sine of a sweep's rotations at which it ends


def folded(
    vectors: Float[Tensor, "*batch axes 2"], eigenvalues: Float[Tensor, "*#batch axes"]
) -> Complex[Tensor, "*batch axes"]:
    """Return z_l = √λ_l (v[2l] + i v[2l+1]); λ must not be negative."""
    return torch.view_as_complex((vectors * eigenvalues.sqrt()[..., None]).contiguous())


def rotated(
    vectors: Float[Tensor, "*batch axes 2"],
    eigenvalues: Float[Tensor, "*#batch axes"],
    rotation: Complex[Tensor, "axes axes"],
) -> tuple[Float[Tensor, "*batch axes 2"], Float[Tensor, "*#batch axes"]]:
    """Return vectors and eigenvalues of the rotated axes, with the same total scores.

    Args:
        vectors: v, one plane per axis.
        eigenvalues: λ ≥ 0; it may broadcast over the responses to a prompt.
        rotation: unitary; row l makes the new axis l.
    """
    z = folded(vectors, eigenvalues)
    rotation = rotation.to(z)
    weights = eigenvalues @ (rotation.real.square() + rotation.imag.square()).T
    turned = torch.view_as_real(z @ rotation.T)
    return turned / weights.clamp(min=TINY).sqrt()[..., None], weights


def random_rotation(axes: int, generator: torch.Generator) -> Complex[Tensor, "axes axes"]:
    """Return a unitary matrix, each as likely as any other (Haar measure), in double precision."""
    parts = torch.randn(axes, axes, 2, generator=generator, dtype=torch.float64)
    unitary: Tensor
    upper: Tensor
    unitary, upper = LINALG.qr(torch.view_as_complex(parts))
    diagonal = upper.diagonal()
    return unitary * (diagonal / diagonal.abs())


def score_matrices(
    vectors: Float[Tensor, "pairs 2 axes 2"], eigenvalues: Float[Tensor, "pairs axes"]
) -> Complex[Tensor, "pairs axes axes"]:
    """Return a Hermitian matrix B for each pair of responses: Q B Q† has the rotated axes' scores,
    weighted by their λ', on its diagonal.

    B = (z_j* z_iᵀ − z_i* z_jᵀ)ᵀ / 2i. Its trace is the total score, whatever the axes are.
    """
    z = folded(vectors.double(), eigenvalues.double()[:, None])
    outer = z[:, 0, :, None] * z[:, 1, None, :].conj()
    return (outer.mH - outer) / 2j


def principal_rotation(
    matrices: Complex[Tensor, "pairs axes axes"],
) -> Complex[Tensor, "axes axes"]:
    """Return the principal axes of the score variance: eigenvectors of the mean of B B, the largest
    eigenvalue first.

    In closed form, and the same axes however the model was rotated before (if no two eigenvalues
    are equal).

    Args:
        matrices: of `score_matrices`.
    """
    vectors: Tensor = LINALG.eigh((matrices @ matrices).mean(0))[1]
    return _fixed_phase(vectors.flip(-1).mH)


def joint_rotation(matrices: Complex[Tensor, "pairs axes axes"]) -> Complex[Tensor, "axes axes"]:
    """Return the axes on which the scores' squares are largest in sum, as varimax does for factors.

    Maximises Σ_l mean (λ'_l s'_l)², by which no pair of axes shares a score that one of them could
    hold alone: a joint diagonalisation of all B by Jacobi rotations (Cardoso and Souloumiac 1996),
    from the principal axes. The axis with the largest mean square comes first.

    Args:
        matrices: of `score_matrices`.
    """
    rotation = principal_rotation(matrices)
    turned = rotation @ matrices @ rotation.mH
    for _ in range(SWEEPS):
        largest = 0.0
        for p, q in combinations(range(len(rotation)), 2):
            plane, sine = _plane_rotation(turned, p, q)
            rotation = plane @ rotation
            turned = plane @ turned @ plane.mH
            largest = max(largest, sine)
        if largest < SETTLED:
            break
    squares = turned.diagonal(dim1=1, dim2=2).real.square().mean(0)
    return _fixed_phase(rotation[squares.argsort(descending=True)])


def _plane_rotation(
    matrices: Complex[Tensor, "pairs axes axes"], p: int, q: int
) -> tuple[Complex[Tensor, "axes axes"], float]:
    """Return the rotation of axes p and q after which their squared scores are largest, and its
    sine."""
    first, second, cross = matrices[:, p, p], matrices[:, q, q], matrices[:, p, q]
    parts = torch.stack([(first - second).real, 2 * cross.real, 2 * cross.imag], -1)
    largest: Tensor = LINALG.eigh(parts.T @ parts)[1][:, -1]
    x, y, z = (float(part) for part in (largest if largest[0] >= 0 else -largest))
    cosine = math.sqrt((1 + x) / 2)
    sine = torch.tensor(complex(y, z) / (2 * cosine), dtype=matrices.dtype)
    plane = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    plane[p, p] = plane[q, q] = cosine
    plane[p, q], plane[q, p] = sine, -sine.conj()
    return plane, float(sine.abs())


def _fixed_phase(rotation: Complex[Tensor, "axes axes"]) -> Complex[Tensor, "axes axes"]:
    """Turn each axis in its own plane, which changes none of its scores, so that its largest entry
    is real and positive."""
    largest = rotation.gather(-1, rotation.abs().argmax(-1, keepdim=True))
    return rotation * (largest.conj() / largest.abs())
