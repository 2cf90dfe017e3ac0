"""Give a trained preference model the canonical axes of its own scores, which are saved with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gprl_lightning.core.axis_rotation import joint_rotation, principal_rotation, score_matrices
from gprl_lightning.core.batch import Messages
from gprl_lightning.core.options import CanonicalAxes
from gprl_lightning.core.preference import axis_pairs
from gprl_lightning.models.preference_model import PreferenceModel

EXAMPLES = 1000  # pairs that the rotation is found on


def turn_axes(
    model: PreferenceModel, pairs: Sequence[tuple[Messages, Messages]], axes: CanonicalAxes
) -> None:
    """Set ``model.rotation`` by its scores of pairs. No score changes; advantages per axis do.

    Args:
        model: a GPM of two axes or more.
        pairs: conversations with two answers to one prompt.
        axes: ``principal``: the principal axes of the score variance; ``joint``: those that hold
            most of the scores' squares (as varimax); ``none``: those that training found.
    """
    model.rotation = None
    if axes == "none":
        return
    sides = [side for pair in pairs[:EXAMPLES] for side in pair]
    vectors, eigenvalues = model.embed_conversations(sides)
    by_pair = axis_pairs(vectors.cpu()).unflatten(0, (-1, 2))
    matrices = score_matrices(by_pair, eigenvalues.cpu()[::2])
    find = {"principal": principal_rotation, "joint": joint_rotation}[axes]
    model.rotation = find(matrices).to(torch.complex128)
