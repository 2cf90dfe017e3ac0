"""Several estimates of one reward: by loops, by hand, and alive."""

from __future__ import annotations

import math
from itertools import combinations
from typing import get_args

import pytest
import torch

from gprl_lightning.core.options import Combination
from gprl_lightning.core.pessimism import combined
from tests.core.examples import double

WORDS = get_args(Combination)
MEMBERS, GROUPS, SIZE = 3, 2, 4


def estimates():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(MEMBERS, GROUPS, SIZE, generator=generator, dtype=torch.float64)


def looped(given, word, weight):
    found = []
    for g in range(len(given[0])):
        rows = []
        for member in given:
            mean = math.fsum(member[g]) / len(member[g])
            rows.append([value - mean for value in member[g]])
        row = []
        for values in zip(*rows, strict=True):
            mean = math.fsum(values) / len(values)
            variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
            row.append(
                {
                    "mean": mean,
                    "minimum": min(values),
                    "mean_minus_std": mean - weight * math.sqrt(variance),
                    "mean_minus_variance": mean - weight * variance,
                }[word]
            )
        found.append(row)
    return found


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_by_loops(word, weight):
    given = estimates()
    expected = double(looped(given.tolist(), word, weight))
    torch.testing.assert_close(combined(given, word, weight), expected, rtol=0, atol=1e-12)


def test_by_hand():
    """Two members that agree on the order of the first two responses, and not on the third.

    Less their means (2, 2) they say (1, -1, 0) and (-1, -3, 4): least (-1, -3, 0), mean
    (0, -2, 2), std (1, 1, 2), variance (1, 1, 4).
    """
    given = double([[[3.0, 1.0, 2.0]], [[1.0, -1.0, 6.0]]])
    assert combined(given, "minimum", 0.5).tolist() == [[-1, -3, 0]]
    assert combined(given, "mean", 0.5).tolist() == [[0, -2, 2]]
    assert combined(given, "mean_minus_std", 0.5).tolist() == [[-0.5, -2.5, 1]]
    assert combined(given, "mean_minus_variance", 0.5).tolist() == [[-0.5, -2.5, 0]]


@pytest.mark.parametrize("word", WORDS)
def test_a_shift_of_a_member_by_prompt_changes_nothing(word):
    given = estimates()
    shifted = given + double([[[5.0], [-3.0]], [[0.0], [9.0]], [[1.0], [1.0]]])
    torch.testing.assert_close(combined(shifted, word, 0.5), combined(given, word, 0.5))


@pytest.mark.parametrize("word", WORDS)
def test_members_that_agree_give_their_own_reward(word):
    one = estimates()[:1]
    torch.testing.assert_close(
        combined(one.expand(3, -1, -1), word, 0.7), combined(one, "mean", 0.0)
    )
    level = torch.ones(3, 2, 4).double()
    assert (combined(level, word, 0.7) == 0).all()


def test_every_word_and_the_weight_are_alive():
    given = estimates()
    found = {word: combined(given, word, 0.5) for word in WORDS}
    for a, b in combinations(WORDS, 2):
        assert (found[a] - found[b]).abs().max() > 1e-2, (a, b)
    for word in ("mean_minus_std", "mean_minus_variance"):
        assert (combined(given, word, 1.5) - found[word]).abs().max() > 1e-2
