"""A rule of one's own in the module: what it is given, and its state in a checkpoint."""

from __future__ import annotations

import torch

from gprl_lightning.core.advantage_rule import Advantages
from tests.worlds import SIZE, scored_rollout, tiny_module


def fading(groups, state, all_reduce):
    """Advantages halve with each iteration that the state has counted, of any shape."""
    seen = state.get("seen", torch.zeros(()))
    scores = groups.scores()
    advantages = scores.sum(-1) * 0.5 ** float(seen)
    return Advantages(scores, scores, advantages, {"seen": seen + 1})


def test_a_plain_function_is_a_rule_and_its_state_goes_on():
    module = tiny_module()
    module.advantage_rule = fading
    first, second = scored_rollout(module), scored_rollout(module)
    assert torch.equal(second.advantages, first.advantages / 2)
    assert (first.state, int(second.state["seen"])) == ({}, 1)


def test_a_checkpoint_holds_the_state():
    module, other = tiny_module(), tiny_module()
    module.advantage_rule = other.advantage_rule = fading
    scored_rollout(module)
    checkpoint: dict = {}
    module.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    assert torch.equal(scored_rollout(other).advantages, scored_rollout(module).advantages)


def test_a_rule_is_given_whole_responses():
    scored = scored_rollout(tiny_module())
    groups, rollout = scored.groups, scored.rollout
    mask = rollout.response_mask
    for row in range(len(rollout.responses)):
        group, member = divmod(row, SIZE)
        expected = sum(rollout.old_logprobs[row][mask[row]].double().tolist())
        assert abs(float(groups.logprobs[group, member]) - expected) < 1e-9
        assert int(groups.lengths[group, member]) == int(mask[row].sum())
        assert bool(groups.finished[group, member]) == bool(rollout.finished[row])
    assert groups.uids.tolist() == rollout.prompts.uids.tolist()
    torch.testing.assert_close(groups.logprobs, groups.ref_logprobs)
    torch.testing.assert_close(groups.pairs().sum(2) / (SIZE - 1), groups.scores())
