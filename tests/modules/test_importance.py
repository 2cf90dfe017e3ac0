"""Importance weights in the update: on the policy term alone, and nothing where they are 1."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gprl_lightning.core.batch import ScoredRollout
from gprl_lightning.core.importance import ImportanceCorrection
from gprl_lightning.errors import LogprobMismatch, WrongWeights
from gprl_lightning.modules.statistics import UpdateStatistics
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.worlds import SIZE, scored_rollout, tiny_loader, tiny_module, tiny_policy, tiny_trainer


class Engine(NativeSampler):
    """Holds weights of its own, which answer a bit otherwise than the policy does."""

    own_weights = True

    def __init__(self, off: float = 0.0, late: int = 0) -> None:
        super().__init__()
        self.off, self.late, self.versions = off, late, []

    def weights_changed(self, policy, version):
        self.versions.append(version)

    def sample(self, policy, prompts, sampling, seed):
        rollout = super().sample(policy, prompts, sampling, seed)
        says = rollout.old_logprobs - self.off * rollout.response_mask
        return replace(rollout, sampler_logprobs=says, version=self.versions[-1] - self.late)


def gradient(scored: ScoredRollout, **algorithm: float) -> Tensor:
    module = tiny_module(policy=tiny_policy(torch.float64), **algorithm)
    with torch.no_grad():  # away from the reference, or the KL has no gradient
        for parameter in module.policy.parameters():
            parameter += 0.01 * torch.ones_like(parameter)
    module.manual_backward = lambda loss: loss.backward()
    module._backward(scored, torch.arange(3 * SIZE), UpdateStatistics())
    return torch.cat([p.grad.flatten() for p in module.policy.parameters()])


@pytest.fixture(scope="module")
def scored() -> ScoredRollout:
    return scored_rollout(tiny_module(policy=tiny_policy(torch.float64)))


def test_weights_of_one_change_no_bit(scored):
    assert torch.equal(scored.importance, torch.ones_like(scored.importance))


def test_they_multiply_the_policy_term_and_not_the_kl(scored):
    options = {"max_grad_norm": 1e9}
    twice = replace(scored, importance=2 * scored.importance)
    silent = {"kl_coef": 0.0, **options}
    policy_term = gradient(scored, **silent)
    torch.testing.assert_close(gradient(twice, **silent), 2 * policy_term)
    kl_term = gradient(scored, kl_coef=0.5, **options) - policy_term
    assert kl_term.abs().max() > 1e-6
    torch.testing.assert_close(gradient(twice, kl_coef=0.5, **options), 2 * policy_term + kl_term)


def fit(folder, sampler, correction=None, iterations=2):
    module = tiny_module(iterations)
    module.sampler = sampler
    module.correction = correction or module.correction
    tiny_trainer(folder, every=100).fit(module, tiny_loader(module, iterations))
    return read_metrics(folder / "metrics.csv")


def test_the_mismatch_of_every_token_is_logged_and_corrected(tmp_path):
    off = 0.004  # nats, each token of every response
    engine = Engine(off)
    tight = ImportanceCorrection("truncate", "token", 0.0, 1.002)
    metrics = fit(tmp_path, engine, tight)
    assert engine.versions == [0, 1], "new weights before each rollout"
    assert metrics["rollout/logprob_mismatch"][1] == pytest.approx([off, off], rel=0.05)
    assert metrics["rollout/logprob_mismatch_mean"][1] == pytest.approx([off, off], rel=0.05)
    assert metrics["rollout/bounded_fraction"][1] == [1.0, 1.0]


def test_each_way_of_correcting_trains_another_policy(tmp_path):
    def loss(name: str, *options) -> float:
        metrics = fit(tmp_path / name, Engine(0.004), ImportanceCorrection(*options), 1)
        return metrics["train/policy_loss"][1][0]

    found = {
        loss("none", "none"),
        loss("token", "truncate", "token"),
        loss("sequence", "truncate", "sequence"),
        loss("bounded", "truncate", "sequence", 0.0, 1.01),
        loss("masked", "mask", "sequence", 0.0, 1.03),
    }
    assert len(found) == 5


def test_an_engine_that_is_another_policy_ends_the_run(tmp_path):
    with pytest.raises(LogprobMismatch):
        fit(tmp_path, Engine(0.5))


def test_responses_of_other_weights_end_the_run(tmp_path):
    with pytest.raises(WrongWeights, match=r"expected responses of version 0.*found version -1"):
        fit(tmp_path, Engine(late=1))
