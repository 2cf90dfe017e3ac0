"""The slope that the policy is told ahead: what the loss brings, for every option of the loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gprl_lightning.core import logprobs
from gprl_lightning.core.gspo import GSPO
from gprl_lightning.core.policy_loss import CISPO, Clip
from gprl_lightning.modules import minibatch_loss
from gprl_lightning.modules.statistics import UpdateStatistics
from gprl_lightning.modules.update_sums import UpdateSums
from tests.worlds import SIZE, tiny_loader, tiny_module, tiny_policy

ROWS = torch.arange(3 * SIZE)


def moved(dtype=torch.float32, size=0.1, **algorithm):
    """A module and a rollout whose policy has moved on, so that some tokens are clipped."""
    module = tiny_module(policy=tiny_policy(dtype), kl_coef=0.1, **algorithm)
    prompts = tiny_loader(module).batch(0)
    scored = module._score(
        module.sampler.sample(module.policy, prompts, module.sampling, module.seed)
    )
    torch.manual_seed(1)
    scored = replace(scored, importance=0.5 + torch.rand_like(scored.importance))
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter += size * torch.randn_like(parameter)
    module.manual_backward = lambda loss: loss.backward()
    return module, scored


def backward(module, scored):
    module.policy.zero_grad()
    statistics = UpdateStatistics()
    module._backward(scored, ROWS, statistics)
    sums = UpdateSums(*statistics.open)
    clipped, tokens = float(sums.clipped), float(sums.tokens)
    gradients = [p.grad.clone() for p in module.policy.parameters() if p.grad is not None]
    return torch.cat([g.flatten() for g in gradients]), clipped / tokens


OPTIONS = [
    *({"loss_aggregation": name} for name in ("dr_grpo", "dapo", "grpo")),
    *({"kl_estimator": name} for name in ("k1", "k2", "k3")),
    {"clip_epsilon": 0.05, "clip_epsilon_high": 0.1},
    {"micro_batch_size": 5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_what_the_loss_brings(options, monkeypatch):
    """In float32: else the logits would be made twice, and nothing but time would show it."""
    module, scored = moved(**options)
    answers = []
    alike = logprobs._alike
    monkeypatch.setattr(logprobs, "_alike", lambda *a: answers.append(alike(*a)) or answers[-1])
    gradients, clipped = backward(module, scored)
    assert answers and all(answers)
    assert gradients.abs().sum() > 0 and 0 < clipped < 1


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_are_those_without_it(options, monkeypatch):
    module, scored = moved(torch.float64, **options)
    found, _ = backward(module, scored)
    monkeypatch.setattr(minibatch_loss, "slope_of", lambda *_: None)
    expected, _ = backward(module, scored)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_slope_of_another_loss_is_not_taken_for_this_one_s(monkeypatch):
    """The slope is a hint: told wrongly, the gradients are those of the loss all the same."""
    module, scored = moved(torch.float64)
    expected, _ = backward(module, scored)
    right = minibatch_loss.slope_of
    monkeypatch.setattr(
        minibatch_loss, "slope_of", lambda f, b, w, reach: right(f, b, 2 * w, reach)
    )
    found, _ = backward(module, scored)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


# Every loss ---------------------------------------------------------------------------------------

LOSSES = [Clip(), Clip(0.05, 0.1), CISPO(0.2), GSPO(), GSPO(0.05, 0.1)]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"micro_batch_size": 5}, {"loss_aggregation": "grpo"}], ids=str
)
def test_gradients_of_every_loss_are_those_without_a_slope(loss, options, monkeypatch):
    module, scored = moved(torch.float64, **options)
    module.policy_loss = loss
    answers = watched(monkeypatch)
    found, _ = backward(module, scored)
    assert all(answers) and bool(answers) == (loss.reach == "token")
    monkeypatch.setattr(minibatch_loss, "slope_of", lambda *_: None)
    expected, _ = backward(module, scored)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert found.abs().sum() > 0


def test_a_loss_that_misstates_its_reach_is_slow_and_not_wrong(monkeypatch):
    """Chunks are small, so that the rest of a sequence is not known; the backward pass finds it."""
    module, scored = moved(torch.float64)
    module.policy_loss = GSPO(0.5, 0.5)
    monkeypatch.setitem(logprobs.CHUNK_SIZES, "cpu", 16)
    expected, _ = backward(module, scored)
    module.policy_loss = replace(module.policy_loss, reach="token")
    answers = watched(monkeypatch)
    found, _ = backward(module, scored)
    assert answers == [False]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def watched(monkeypatch) -> list[bool]:
    """The backward pass's answers: was the slope what the loss brings?"""
    answers, alike = [], logprobs._alike
    monkeypatch.setattr(logprobs, "_alike", lambda *a: answers.append(alike(*a)) or answers[-1])
    return answers
