"""What a preference source says of a batch of groups: vectors of responses, weights of axes.

On each axis a response is one or more pairs of numbers (planes), and the score of two responses is
the sum of their planes' cross products: skew-symmetric, whatever the numbers are. A general
preference model has one plane per axis; so has a reward r, as ``[r, 1]``; a matrix of verdicts, of
any skew-symmetric kind, cycles included, has one plane for each response of the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Embeddings:
    """What a source says of a batch of groups.

    Attributes:
        vectors: of each response on each axis; ``entries`` is twice the number of planes.
        eigenvalues: λ, the weight of each axis for each prompt.
    """

    vectors: Float[Tensor, "groups size axes entries"]
    eigenvalues: Float[Tensor, "groups axes"]

    @staticmethod
    def of_rewards(
        rewards: Float[Tensor, "groups size axes"], eigenvalues: Float[Tensor, "groups axes"]
    ) -> Embeddings:
        """Embed rewards, so that scores are their differences, ``s_l(i, j) = r_l(i) - r_l(j)``.

        >>> rewards, eigenvalues = torch.tensor([[[3.0], [1.0]]]), torch.ones(1, 1)
        >>> Embeddings.of_rewards(rewards, eigenvalues).vectors.tolist()
        [[[[3.0, 1.0]], [[1.0, 1.0]]]]
        """
        return Embeddings(torch.stack([rewards, torch.ones_like(rewards)], -1), eigenvalues)

    @staticmethod
    def of_pairs(
        scores: Float[Tensor, "groups size size axes"], eigenvalues: Float[Tensor, "groups axes"]
    ) -> Embeddings:
        """Embed skew-symmetric matrices, so that scores are theirs, exactly.

        Plane p of response i is ``[s(i, p) / 2, 1 if i = p else 0]``, so that the cross products
        with response j sum to ``s(i, j) / 2 - s(j, i) / 2``.
        """
        halves = scores.transpose(2, 3) / 2  # groups, size, axes, planes
        unit = torch.eye(scores.shape[1]).to(scores)[None, :, None].expand_as(halves)
        return Embeddings(torch.stack([halves, unit], -1).flatten(-2), eigenvalues)

    @staticmethod
    def joined(parts: Sequence[Embeddings]) -> Embeddings:
        """Return the axes of several sources side by side; missing planes are 0, and score
        nothing."""
        widest = max(part.vectors.shape[-1] for part in parts)
        padded = [
            torch.nn.functional.pad(p.vectors, (0, widest - p.vectors.shape[-1])) for p in parts
        ]
        return Embeddings(torch.cat(padded, 2), torch.cat([p.eigenvalues for p in parts], 1))

    def to(self, device: torch.device) -> Embeddings:
        return Embeddings(self.vectors.to(device), self.eigenvalues.to(device))

    def split(self, size: int) -> tuple[Embeddings, Float[Tensor, "groups rest axes entries"]]:
        """Return the first ``size`` responses of each group, and the vectors of the others."""
        vectors = self.vectors
        return Embeddings(vectors[:, :size], self.eigenvalues), vectors[:, size:]
