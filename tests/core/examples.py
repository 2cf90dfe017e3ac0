"""Small groups of responses, and a tiny policy, as nested lists of float64."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

Group = list[list[float]]

KINDS = ("random", "tied", "constant", "cyclic", "pair")


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: Tensor, expected: object, atol: float = 1e-9) -> None:
    """A float64 tensor against the oracle's nested lists."""
    torch.testing.assert_close(found, double(expected), atol=atol, rtol=1e-9)


def unit(rng: random.Random, entries: int) -> list[float]:
    vector = [rng.gauss(0, 1) for _ in range(entries)]
    norm = math.sqrt(sum(x * x for x in vector))
    return [x / norm for x in vector]


def group(kind: str, axes: int, seed: int) -> Group:
    """Unit vectors [size][2 * axes]: six responses, or two for ``pair``."""
    rng = random.Random(seed)
    if kind == "pair":
        return [unit(rng, 2 * axes) for _ in range(2)]
    if kind == "constant":
        return [unit(rng, 2 * axes)] * 6
    if kind == "tied":
        different = [unit(rng, 2 * axes) for _ in range(3)]
        return [different[i] for i in (0, 1, 0, 2, 1, 0)]
    if kind == "cyclic":
        radius = 1 / math.sqrt(axes)
        turns = [2 * math.pi * i / 3 + seed for i in range(6)]
        return [[f(t) * radius for _ in range(axes) for f in (math.cos, math.sin)] for t in turns]
    return [unit(rng, 2 * axes) for _ in range(6)]


def batch(kind: str, axes: int) -> list[Group]:
    """Two groups of the kind, and one of another kind where sizes allow."""
    other = "pair" if kind == "pair" else "random"
    return [group(kind, axes, 1), group(kind, axes, 2), group(other, axes, 3)]


def gates(axes: int, groups: int = 3) -> list[list[float]]:
    """Eigenvalues [groups][axes] that sum to one, different in each group."""
    rng = random.Random(7)
    rows = [[rng.uniform(0.2, 2.0) for _ in range(axes)] for _ in range(groups)]
    return [[value / sum(row) for value in row] for row in rows]


def multipliers(axes: int) -> list[float]:
    """Axis multipliers that sum to the number of axes, none of them 1 unless there is one axis."""
    row = [0.5 + 0.4 * axis for axis in range(axes)]
    return [axes * value / sum(row) for value in row]


class Tokens:
    """Three ragged responses of a bigram policy over four tokens, away from the kinks of the clip.

    Rows hold two, four and one tokens of at most `max_tokens`. The old policy differs enough for
    ratios under 0.8 and over 1.2 to stand next to advantages of both signs.
    """

    responses = ([1, 2], [3, 0, 2, 1], [2])
    max_tokens = 5
    logits = (
        [0.3, -0.8, 0.5, 0.1],
        [0.2, 0.4, -0.3, 0.9],
        [-0.6, 0.1, 0.7, 0.0],
        [0.5, 0.2, 0.4, -0.2],
    )
    old = ([-1.4, -1.9], [-1.2, -1.0, -2.2, -1.1], [-1.25])
    ref = ([-1.6, -1.5], [-1.5, -1.3, -1.2, -2.0], [-0.9])
    advantages = (0.8, -1.1, 0.45)
