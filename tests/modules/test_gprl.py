"""The module: one RL iteration against independent arithmetic, and what must not change its
gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gprl_lightning.core.drift import DriftControl
from gprl_lightning.models.policy import reference_of
from gprl_lightning.modules.statistics import UpdateStatistics
from tests import oracle
from tests.tiny import ARCHITECTURES, tiny_model, tiny_tokenizer
from tests.worlds import SIZE, scored_rollout, tiny_loader, tiny_module, tiny_policy


def _gradients(module, scored, rows=None):
    """Gradients of one minibatch, accumulated as the module accumulates them."""
    module.policy.zero_grad()
    module.manual_backward = lambda loss: loss.backward()
    rows = torch.arange(len(scored.rollout.responses)) if rows is None else rows
    module._backward(scored, rows, UpdateStatistics())
    return torch.cat([p.grad.flatten() for p in module.policy.parameters() if p.grad is not None])


def _moved(module, seed: int = 1, size: float = 0.02):
    """Step away from the reference, so that ratio and KL are not at their trivial values."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter += size * torch.randn_like(parameter)


@pytest.mark.parametrize("aggregation", ["dr_grpo", "dapo", "grpo"])
@pytest.mark.parametrize("micro_batch_size", [1, 5, 12])
def test_gradients_do_not_depend_on_the_micro_batch_split(aggregation, micro_batch_size):
    whole = tiny_module(loss_aggregation=aggregation, policy=tiny_policy(torch.float64))
    scored = scored_rollout(whole)
    _moved(whole)
    expected = _gradients(whole, scored)
    whole.algorithm = replace(whole.algorithm, micro_batch_size=micro_batch_size)
    found = _gradients(whole, scored)
    assert expected.abs().max() > 1e-6
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_gradients_do_not_depend_on_row_order():
    module = tiny_module(micro_batch_size=4, policy=tiny_policy(torch.float64))
    scored = scored_rollout(module)
    _moved(module)
    expected = _gradients(module, scored)
    found = _gradients(module, scored, torch.randperm(3 * SIZE))
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_first_update_has_ratio_one_and_no_kl(architecture):
    from gprl_lightning.models.policy import Policy

    policy = Policy(tiny_model(architecture), tiny_tokenizer())
    module = tiny_module(policy=policy)
    scored = scored_rollout(module)
    batch = scored.rows(torch.arange(3 * SIZE))
    logprobs, _ = policy(
        batch.prompt_ids, batch.prompt_mask, batch.response_ids, batch.response_mask
    )
    mask = batch.response_mask
    assert (logprobs - batch.old_logprobs)[mask].abs().max() < 1e-4
    assert (logprobs - batch.ref_logprobs)[mask].abs().max() < 1e-5


def test_advantages_of_an_iteration_are_the_oracles():
    module = tiny_module()
    module.control = DriftControl(torch.tensor([0.5, 1.0, 1.5]).double(), 0.1)
    scored = scored_rollout(module)
    for group in range(3):
        vectors = scored.vectors[group].flatten(-2).double().tolist()
        scores = oracle.group_scores(vectors)
        found = scored.group_scores[group].double()
        assert torch.allclose(found, torch.tensor(scores).double(), atol=1e-6)
        weights = [
            value * m
            for value, m in zip(scored.eigenvalues[group].tolist(), [0.5, 1.0, 1.5], strict=True)
        ]
        total = torch.zeros(SIZE).double()
        for axis in range(3):
            column = torch.tensor([row[axis] for row in scores]).double()
            z = (column - column.mean()) / (column.std(unbiased=False) + 1e-4)
            total += weights[axis] * z
        assert torch.allclose(scored.advantages[group].double(), total, atol=1e-4)


def test_bradley_terry_makes_it_grpo():
    """With one axis the advantages are the z-scores of the rewards: scalar GRPO."""
    module = tiny_module(kind="bradley_terry", num_axes=1)
    scored = scored_rollout(module)
    rewards = scored.vectors[..., 0, 0]
    centred = rewards - rewards.mean(1, keepdim=True)
    expected = centred / centred.square().mean(1, keepdim=True).sqrt()
    assert scored.eigenvalues.eq(1).all()
    assert torch.allclose(scored.advantages, expected, atol=2e-2)
    # ε weighs on scores that are G/(G-1) times the rewards.
    scaled = centred * SIZE / (SIZE - 1)
    exact = scaled / (scaled.square().mean(1, keepdim=True).sqrt() + 1e-4)
    assert torch.allclose(scored.advantages, exact, atol=1e-5)


def test_reference_and_preference_model_never_enter_a_checkpoint_or_the_optimiser():
    module = tiny_module()
    assert all(k.startswith("policy.") for k in module.state_dict())
    optimiser = module.configure_optimizers()["optimizer"]
    held = {id(p) for g in optimiser.param_groups for p in g["params"]}
    assert held == {id(p) for p in module.policy.parameters()}
    module.train()
    assert not any(m.training for m in module.reference.modules())
    assert not any(m.training for m in module.preference_model.modules())


def test_bounded_scores_reach_the_advantages():
    linear, bounded = (
        scored_rollout(tiny_module()),
        scored_rollout(tiny_module(score_shape="bounded")),
    )
    assert torch.equal(linear.vectors, bounded.vectors)
    assert (linear.advantages - bounded.advantages).abs().max() > 1e-3


def test_rollout_is_the_same_after_the_policy_moves_back(tmp_path):
    """The sampler reads nothing but weights, prompt, seed and iteration."""
    module = tiny_module()
    prompts = tiny_loader(module).batch(0)
    first = module.sampler.sample(module.policy, prompts, module.sampling, 0)
    state = {k: v.clone() for k, v in module.policy.state_dict().items()}
    _moved(module)
    other = module.sampler.sample(module.policy, prompts, module.sampling, 0)
    module.policy.load_state_dict(state)
    again = module.sampler.sample(module.policy, prompts, module.sampling, 0)
    assert again.responses == first.responses != other.responses
    assert torch.equal(again.old_logprobs, first.old_logprobs)


def test_reference_does_not_follow_the_policy():
    policy = tiny_policy()
    reference = reference_of(policy)
    before = [p.clone() for p in reference.parameters()]
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 1
    assert all(torch.equal(a, b) for a, b in zip(before, reference.parameters(), strict=True))
