"""The counter-based generator: frozen values, uniform, uncorrelated, blind to order."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from gprl_lightning.rollout.randomness import stream_keys, uniforms

MASK = (1 << 64) - 1
FROZEN = [0.4762771725654602, 0.49804896116256714, 0.9463798403739929, 0.38798457384109497]


def mix(z: int) -> int:
    """SplitMix64's output function on Python integers (Steele, Lea and Flood 2014, figure 17)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def expected(seed: int, iteration: int, uid: int, response: int, step: int) -> float:
    key = 0
    for part in (seed, iteration, uid, response):
        key = mix(((key ^ part & MASK) + 0x9E3779B97F4A7C15) & MASK)
    bits = mix((key + (step + 1) * 0x9E3779B97F4A7C15) & MASK)
    return ((bits >> 41) + 0.5) / 2**23


def grid(size: int, steps: int, seed: int = 0, iteration: int = 0) -> Tensor:
    """[uid, response, step] for the first ``size`` uids and responses."""
    uids = torch.arange(size).repeat_interleave(size)
    index = torch.arange(size).repeat(size)
    rows = [uniforms(seed, iteration, uids, index, step) for step in range(steps)]
    return torch.stack(rows, -1).view(size, size, steps)


@pytest.mark.parametrize(
    "key", [(0, 0, 0, 0, 0), (1, 2, 3, 4, 5), (2**62, 10**6, 2**40, 511, 4095), (-7, 0, 1, 0, 9)]
)
def test_equals_the_same_arithmetic_on_python_integers(key):
    seed, iteration, uid, response, step = key
    value = uniforms(seed, iteration, torch.tensor([uid]), torch.tensor([response]), step)
    assert value.dtype == torch.float32
    assert value.item() == expected(*key)


def test_frozen_values():
    """A change here changes every run: it must be meant."""
    values = uniforms(17, 3, torch.tensor([0, 1, 1, 5]), torch.tensor([0, 0, 1, 7]), 2)
    assert values.tolist() == FROZEN


def test_uniform():
    """Kolmogorov-Smirnov on 64,000 numbers at the 0.1 % level: 1.95 / sqrt(n)."""
    values = grid(40, 40).flatten().double().sort().values
    n = len(values)
    ranks = torch.arange(n, dtype=torch.float64)
    distance = torch.maximum((ranks + 1) / n - values, values - ranks / n).max()
    assert distance < 1.95 / n**0.5
    assert values.min() > 0
    assert values.max() < 1


def test_neighbouring_keys_are_uncorrelated():
    base = grid(40, 40)
    above = torch.ones(40, 40).triu(1) > 0
    neighbours = {
        "uid": (base[1:], base[:-1]),
        "response": (base[:, 1:], base[:, :-1]),
        "step": (base[..., 1:], base[..., :-1]),
        "uid and response swapped": (base[above], base.transpose(0, 1)[above]),
        "seed": (base, grid(40, 40, seed=1)),
        "iteration": (base, grid(40, 40, iteration=1)),
        "seed against iteration": (grid(40, 40, seed=1), grid(40, 40, iteration=1)),
    }
    for name, (left, right) in neighbours.items():
        pair = torch.stack([left.flatten(), right.flatten()]).double()
        assert abs(torch.corrcoef(pair)[0, 1]) < 4 / pair.shape[1] ** 0.5, name


def test_keys_do_not_collide():
    keys = set()
    parts = list(itertools.product(range(4), range(8)))
    uids, index = torch.arange(64).repeat_interleave(16), torch.arange(16).repeat(64)
    for seed, iteration in parts:
        keys |= set(stream_keys(seed, iteration, uids, index).tolist())
    assert len(keys) == 4 * 8 * 64 * 16


def test_a_row_does_not_depend_on_its_place():
    uids, index = torch.arange(100) // 4, torch.arange(100) % 4
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    values = uniforms(5, 6, uids, index, 7)
    assert torch.equal(uniforms(5, 6, uids[order], index[order], 7), values[order])
    assert uniforms(5, 6, uids[9:10], index[9:10], 7) == values[9]
