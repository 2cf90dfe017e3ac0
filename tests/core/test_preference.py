"""Scores of the general preference model: the sign, the symmetries, and the purity of `core`."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from gprl_lightning.core.preference import (
    axis_pairs,
    group_scores,
    pairwise_scores,
    scores_against,
    total_scores,
    win_probability,
)


def random_vectors(groups: int, size: int, axes: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(groups + 10 * size + 100 * axes)
    vectors = torch.randn(groups, size, 2 * axes, generator=generator, dtype=torch.float64)
    return axis_pairs(torch.nn.functional.normalize(vectors, dim=-1).to(dtype))


def test_an_axis_owns_neighbouring_entries() -> None:
    assert axis_pairs(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_sign_and_axes_of_the_score() -> None:
    """Axis 0: 1·1 - 0·0 = 1. Axis 1: 2·5 - 3·4 = -2. The sign is Definition 4.3's."""
    vectors = torch.tensor([[[[1.0, 0.0], [2.0, 3.0]], [[0.0, 1.0], [4.0, 5.0]]]])
    scores = pairwise_scores(vectors)
    assert scores[0, 0, 1].tolist() == [1.0, -2.0]
    assert scores[0, 1, 0].tolist() == [-1.0, 2.0]
    total = total_scores(scores, torch.tensor([0.75, 0.25]))
    assert total.tolist() == [[[0.0, 0.25], [-0.25, 0.0]]]


def test_win_probability_is_the_logistic_of_the_score_over_tau() -> None:
    """0.1 · ln 3 at tau 0.1 is a win in 3 of 4."""
    scores = torch.tensor([0.0, 0.1 * math.log(3), -0.1 * math.log(3)], dtype=torch.float64)
    assert win_probability(scores, 0.1).tolist() == pytest.approx([0.5, 0.75, 0.25])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_skew_symmetry_is_exact(dtype: torch.dtype) -> None:
    scores = pairwise_scores(random_vectors(3, 5, 4, dtype))
    assert torch.equal(scores, -scores.transpose(1, 2))
    assert torch.equal(scores.diagonal(dim1=1, dim2=2), torch.zeros(3, 4, 5, dtype=dtype))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_group_scores_are_the_row_means_of_the_pairwise_scores(size: int) -> None:
    vectors = random_vectors(4, size, 3)
    expected = pairwise_scores(vectors).sum(2) / (size - 1)
    torch.testing.assert_close(group_scores(vectors), expected)
    torch.testing.assert_close(expected.sum(1), torch.zeros(4, 3, dtype=torch.float64))


def test_group_scores_are_permutation_equivariant() -> None:
    vectors = random_vectors(2, 6, 2)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(group_scores(vectors[:, order]), group_scores(vectors)[:, order])


def test_in_a_group_of_two_each_scores_against_the_other() -> None:
    vectors = random_vectors(3, 2, 2)
    torch.testing.assert_close(group_scores(vectors)[:, 0], pairwise_scores(vectors)[:, 0, 1])


def test_rock_paper_scissors_has_no_winner() -> None:
    """Three vectors at 120 degrees: each beats the next by sin 120° and loses to the one after."""
    angles = [0.0, 2 * math.pi / 3, 4 * math.pi / 3]
    vectors = torch.tensor([[[[math.cos(a), math.sin(a)]] for a in angles]], dtype=torch.float64)
    assert pairwise_scores(vectors)[0, 0, :, 0].tolist() == pytest.approx(
        [0, 0.75**0.5, -(0.75**0.5)]
    )
    assert group_scores(vectors).abs().max() < 1e-15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_responses_score_exactly_zero(dtype: torch.dtype) -> None:
    vectors = random_vectors(5, 1, 3, dtype).expand(5, 7, 3, 2)
    assert torch.equal(group_scores(vectors), torch.zeros(5, 7, 3, dtype=dtype))


def test_nearly_equal_responses_keep_their_digits_in_single_precision() -> None:
    """Responses 1e-5 apart: the cross product with the plain sum would be mostly rounding."""
    vectors = random_vectors(6, 1, 3) + 1e-5 * random_vectors(6, 8, 3)
    single = vectors.float()
    expected = pairwise_scores(single.double()).sum(2) / 7
    worst = (group_scores(single) - expected).abs().max() / expected.abs().max()
    assert worst < 1e-6


def test_bradley_terry_is_the_difference_of_rewards() -> None:
    """Rewards 3, 1, 0 as vectors [r, 1]: 3 against the mean of 1 and 0 is 2.5, and so on."""
    vectors = torch.tensor([[[[3.0, 1.0]], [[1.0, 1.0]], [[0.0, 1.0]]]])
    assert group_scores(vectors)[0, :, 0].tolist() == [2.5, -0.5, -2.0]


def test_scores_against_anchors_of_the_same_prompt() -> None:
    vectors, anchors = random_vectors(3, 4, 2), random_vectors(3, 2, 2)
    scores = scores_against(vectors, anchors)
    assert scores.shape == (3, 4, 2, 2)
    both = torch.cat([vectors, anchors], dim=1)
    assert torch.equal(scores, pairwise_scores(both)[:, :4, 4:])


def test_core_needs_neither_lightning_nor_transformers() -> None:
    program = """
import pkgutil, sys
import gprl_lightning.core as core
for module in pkgutil.iter_modules(core.__path__):
    __import__(f"{core.__name__}.{module.name}")
assert "gprl_lightning.core.drift" in sys.modules
heavy = {"lightning", "pytorch_lightning", "transformers", "hydra", "wandb"}
print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
