"""Any skew-symmetric matrix as vectors; rewards as vectors; sources side by side."""

from __future__ import annotations

import torch

from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.core.preference import group_scores, pairwise_scores, scores_against


def skew(groups: int = 2, size: int = 5, axes: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(groups, size, size, axes, generator=generator)
    return matrix - matrix.transpose(1, 2)


def test_any_skew_matrix_is_told_by_vectors_to_the_bit():
    matrix = skew()
    found = Embeddings.of_pairs(matrix, torch.ones(2, 3)).vectors
    assert torch.equal(pairwise_scores(found), matrix)
    torch.testing.assert_close(group_scores(found), matrix.sum(2) / 4)
    bounded = (torch.sigmoid(matrix / 0.5) - 0.5).sum(2) / 4
    torch.testing.assert_close(group_scores(found, "bounded", 0.5), bounded)


def test_a_cycle_has_no_winner():
    beats = torch.tensor([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])
    found = Embeddings.of_pairs(beats[None, ..., None], torch.ones(1, 1)).vectors
    assert torch.equal(pairwise_scores(found)[0, ..., 0], beats)
    assert group_scores(found).abs().max() == 0


def test_the_last_response_of_a_group_is_an_anchor():
    matrix = skew()
    first, rest = Embeddings.of_pairs(matrix, torch.ones(2, 3)).split(4)
    torch.testing.assert_close(scores_against(first.vectors, rest)[:, :, 0], matrix[:, :4, 4])
    torch.testing.assert_close(group_scores(first.vectors), matrix[:, :4, :4].sum(2) / 3)


def test_rewards_score_their_differences():
    rewards = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    found = Embeddings.of_rewards(rewards, torch.ones(2, 3))
    expected = rewards[:, :, None] - rewards[:, None]
    torch.testing.assert_close(pairwise_scores(found.vectors), expected)


def test_sources_side_by_side_keep_their_scores():
    matrix = skew()
    rewards = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(1))
    parts = [
        Embeddings.of_pairs(matrix, torch.full((2, 3), 0.5)),
        Embeddings.of_rewards(rewards, torch.full((2, 2), 2.0)),
    ]
    joined = Embeddings.joined(parts)
    scores = pairwise_scores(joined.vectors)
    assert torch.equal(scores[..., :3], matrix)
    torch.testing.assert_close(scores[..., 3:], pairwise_scores(parts[1].vectors))
    assert joined.eigenvalues.tolist() == [[0.5, 0.5, 0.5, 2.0, 2.0]] * 2
