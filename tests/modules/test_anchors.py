"""Anchors: sampled ahead, embedded with the responses, the same whenever they come up."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.modules.anchors import Anchors
from gprl_lightning.rollout.native import NativeSampler
from tests import oracle_drift
from tests.worlds import SIZE, tiny_loader, tiny_module


class Counting(NativeSampler):
    """Notes how many responses each call makes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def sample(self, policy, prompts, sampling, seed):
        self.calls.append(len(prompts) * sampling.group_size)
        return super().sample(policy, prompts, sampling, seed)


@pytest.fixture
def module():
    return tiny_module(iterations=12)


def test_anchors_are_sampled_for_several_iterations_at_once(module):
    """Three prompts per step of ten: three iterations an epoch, one prompt left for the second."""
    loader, sampler = tiny_loader(module, 12), Counting()
    anchors = Anchors(0, NativeSampler())
    anchors.upcoming, anchors.sampler = loader.batch, sampler
    for prompts in loader:
        anchors.of(prompts, module.sampling, module.reference.module)
    assert sampler.calls[0] >= 9
    assert sum(sampler.calls) == len(anchors.responses) == 10, "each prompt once"


def test_what_is_sampled_ahead_is_what_would_be_sampled_in_time(module):
    ahead, in_time = Anchors(0, NativeSampler()), Anchors(0, NativeSampler())
    loader = tiny_loader(module, 12)
    ahead.upcoming = loader.batch
    for prompts in loader:
        found = [a.of(prompts, module.sampling, module.reference.module) for a in (ahead, in_time)]
        assert found[0] == found[1]
    other = Anchors(1, NativeSampler())
    first = loader.batch(0)
    answers = [a.of(first, module.sampling, module.reference.module) for a in (other, ahead)]
    assert answers[0] != answers[1], "the seed counts"


def test_what_was_sampled_is_kept_by_a_checkpoint(module):
    anchors, again, sampler = Anchors(0, NativeSampler()), Anchors(5, NativeSampler()), Counting()
    first = tiny_loader(module, 12).batch(0)
    anchors.sampler = again.sampler = sampler
    found = anchors.of(first, module.sampling, module.reference.module)
    again.load_state_dict(anchors.state_dict())
    assert again.of(first, module.sampling, module.reference.module) == found
    assert len(sampler.calls) == 1


def test_a_process_without_new_prompts_samples_with_those_that_have_some(module, monkeypatch):
    """Where layers are gathered one by one; what it has stays as it is."""
    anchors, sampler = Anchors(0, NativeSampler()), Counting()
    anchors.sampler = sampler
    first = tiny_loader(module, 12).batch(0)
    found = anchors.of(first, module.sampling, module.reference.module)
    kept = dict.fromkeys(anchors.responses, "kept")
    anchors.load_state_dict({"responses": kept})
    monkeypatch.setattr("gprl_lightning.modules.anchors.runs_alone", lambda _: False)
    for others, calls in ((False, [len(found)]), (True, [len(found), 1])):
        monkeypatch.setattr("gprl_lightning.modules.anchors.on_any", lambda mine, o=others: o)
        anchors.of(first, module.sampling, module.reference.module)
        assert sampler.calls == calls
    assert anchors.responses == kept


def test_anchored_scores_are_the_oracles(module):
    prompts = tiny_loader(module, 12).batch(0)
    scored = module._score(module.sampler.sample(module.policy, prompts, module.sampling, 0))
    texts = module.anchors.of(prompts, module.sampling, module.reference.module)
    judge = module.preference_model.module
    anchors = (
        judge.embed(prompts.messages, [[text] for text in texts]).vectors[:, 0].flatten(-2).double()
    )
    for group, anchor, found in zip(
        scored.vectors.flatten(-2).double().tolist(),
        anchors.tolist(),
        scored.anchored_scores,
        strict=True,
    ):
        expected = oracle_drift.anchored_statistic([group], [anchor])
        assert torch.allclose(found.double(), torch.tensor(expected).double(), atol=1e-6)


def test_the_anchor_has_no_part_in_the_group():
    """Vectors, scores and advantages are those of a module without anchors."""
    with_anchors, without = tiny_module(), tiny_module(anchored=False)
    prompts = tiny_loader(without).batch(0)
    rollout = without.sampler.sample(without.policy, prompts, without.sampling, 0)
    found, expected = (module._score(rollout) for module in (with_anchors, without))
    assert expected.anchored_scores is None
    assert found.vectors.shape[1] == found.advantages.shape[1] == SIZE
    for name in ("vectors", "group_scores", "eigenvalues"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), atol=1e-6), name
    # A z-score of scores that are nearly alike magnifies their rounding.
    assert torch.allclose(found.advantages, expected.advantages, atol=1e-3)
