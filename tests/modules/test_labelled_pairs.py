"""Pairs from groups and from a file: the right rows, tokens, labels, and parts that stay whole."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.config import AlgorithmConfig
from gprl_lightning.core.response_ends import misplaced_ends
from gprl_lightning.data.preferences import make_pair
from gprl_lightning.modules.labelled_pairs import pair_parts, pairs_of_groups, pairs_of_texts
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from tests.tiny import tiny_policy, tiny_prompts

TEXTS = ("good one", "bad", "yes", "certainly not", "chat", "no")
PAIRS = (
    make_pair("a", *TEXTS[:2]),
    make_pair("bb", *TEXTS[2:4], label=0.8),
    make_pair("ccc", *TEXTS[4:]),
)


@pytest.fixture(scope="module")
def policy():
    return tiny_policy()


def prompts(policy):
    return tiny_prompts(policy, ["a", "bb", "ccc"])


def written(policy, longest: int = 50):
    return pairs_of_texts(policy, prompts(policy), PAIRS, longest)


def test_best_and_worst_of_each_group(policy):
    rollout = NativeSampler().sample(policy, prompts(policy), Sampling(4, 5), 0)
    gains = torch.tensor([[0.1, 0.3, -0.4, 0.0], [0.0] * 4, [-0.2, 0.1, 0.1, 0.0]])
    pairs = pairs_of_groups(rollout, gains)
    assert pairs.rows.tolist() == [[1, 2], [4, 7], [9, 8]]
    assert pairs.labels.tolist() == [1.0, 0.5, 1.0]  # nobody is ahead in the second
    torch.testing.assert_close(pairs.gains, torch.tensor([[0.3, -0.4], [0, 0], [0.1, -0.2]]))


def test_pairs_of_a_file_are_the_policys_tokens(policy):
    pairs = written(policy)
    rollout = pairs.rollout
    assert pairs.rows.tolist() == [[0, 1], [2, 3], [4, 5]] and rollout.group_size == 2
    assert rollout.responses == TEXTS
    assert policy.decode(rollout.response_ids, rollout.response_mask) == TEXTS
    assert rollout.finished.all()
    ends = misplaced_ends(
        rollout.response_ids, rollout.response_mask, rollout.finished, policy.eos_ids
    )
    assert not ends.any()
    torch.testing.assert_close(pairs.labels, torch.tensor([1.0, 0.8, 1.0]))
    torch.testing.assert_close(pairs.gains[1], torch.tensor([0.3, -0.3]))


def test_a_long_answer_is_cut_and_does_not_end(policy):
    rollout = written(policy, 4).rollout
    assert rollout.response_mask.sum(1).tolist() == [4, 4, 4, 4, 4, 3]
    ends = misplaced_ends(
        rollout.response_ids, rollout.response_mask, rollout.finished, policy.eos_ids
    )
    assert not ends.any() and not rollout.finished[0] and rollout.finished[5]


@pytest.mark.parametrize(
    "bounds, most",
    [
        ({}, 3),
        ({"micro_batch_size": 2}, 1),
        ({"micro_batch_size": 5}, 2),
        ({"micro_batch_tokens": 1}, 1),
    ],
)
def test_parts_hold_whole_pairs_once(policy, bounds, most):
    pairs = written(policy)
    parts = pair_parts(pairs, torch.arange(3), AlgorithmConfig(**bounds))
    assert sorted(torch.cat(parts).tolist()) == [0, 1, 2]
    assert max(map(len, parts)) == most
    longest = pairs.rollout.response_mask.sum(1)[pairs.rows].amax(1)
    assert longest[torch.cat(parts)].tolist() == sorted(longest.tolist())


def test_parts_keep_to_their_tokens(policy):
    pairs = written(policy)
    rollout = pairs.rollout
    widths = rollout.prompts.mask.sum(1) + rollout.response_mask.sum(1)[pairs.rows].amax(1)
    bound = 4 * int(widths.max())
    parts = pair_parts(pairs, torch.arange(3), AlgorithmConfig(micro_batch_tokens=bound))
    assert len(parts) == 2
    assert all(2 * len(part) * int(widths[part].max()) <= bound for part in parts)
