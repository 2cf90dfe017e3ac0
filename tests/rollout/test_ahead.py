"""One step off policy: which weights made what, and that a resume goes on with what was pending."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from gprl_lightning.core.importance import ImportanceCorrection
from gprl_lightning.errors import ConfigError, SamplerFailed, WrongWeights
from gprl_lightning.rollout.ahead import Ahead, next_rollout, plain
from gprl_lightning.rollout.huggingface import HuggingFaceSampler
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.rollout.vllm_server import VLLMServerSampler
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.equality import weights_hash
from tests.rollout.fake_vllm import FakeVLLM, serving
from tests.tiny import tiny_policy, tiny_prompts
from tests.worlds import tiny_loader, tiny_module, tiny_trainer

TWO = Sampling(2, 6)


class Engine(NativeSampler):
    """Notes what it was asked in which thread; a gate holds it up."""

    own_weights = True

    def __init__(self) -> None:
        super().__init__()
        self.log, self.version = [], None
        self.gate = threading.Event()
        self.gate.set()

    def weights_changed(self, policy, version):
        self.log.append(("weights", version))
        self.version = version

    def sample(self, policy, prompts, sampling, seed):
        assert self.gate.wait(10)
        self.log.append(("sample", prompts.iteration))
        return replace(super().sample(policy, prompts, sampling, seed), version=self.version)


@pytest.fixture
def policy():
    return tiny_policy()


def ahead_of(policy, iterations=3):
    ahead = Ahead(Engine())
    batches = [tiny_prompts(policy, ["hi", "ho"], i) for i in range(iterations)]
    ahead.upcoming = lambda i: batches[i] if i < iterations else None
    return ahead, batches


def test_each_rollout_but_the_first_is_an_update_old(policy):
    ahead, batches = ahead_of(policy)
    versions = [next_rollout(ahead, policy, batch, TWO, 0).version for batch in batches]
    assert versions == [0, 0, 1]
    expected = [("weights", 0), ("sample", 0), ("sample", 1), ("weights", 1), ("sample", 2)]
    assert ahead.sampler.log == [*expected, ("weights", 2)]


def test_it_samples_while_the_caller_goes_on(policy):
    ahead, batches = ahead_of(policy)
    next_rollout(ahead, policy, batches[0], TWO, 0)
    ahead._wait()
    ahead.sampler.gate.clear()
    next_rollout(ahead, policy, batches[1], TWO, 0)
    assert ahead.pending is not None and not ahead.pending.done(), "the step may train now"
    ahead.sampler.gate.set()
    assert next_rollout(ahead, policy, batches[2], TWO, 0).version == 1


def test_an_evaluation_in_between_waits_and_disturbs_nothing(policy):
    ahead, batches = ahead_of(policy)
    next_rollout(ahead, policy, batches[0], TWO, 0)
    ahead.weights_changed(policy, 1)
    assert ahead.sample(policy, batches[2], TWO, 99).version == 1
    assert next_rollout(ahead, policy, batches[1], TWO, 0).version == 0, "as it was begun"


def test_what_is_pending_goes_through_a_checkpoint(policy):
    ahead, batches = ahead_of(policy)
    next_rollout(ahead, policy, batches[0], TWO, 0)
    other, _ = ahead_of(policy)
    other.load_state_dict(ahead.state_dict())
    found = next_rollout(other, policy, batches[1], TWO, 0)
    expected = next_rollout(ahead, policy, batches[1], TWO, 0)
    assert found.version == expected.version == 0
    assert torch.equal(found.response_ids, expected.response_ids)
    assert ("sample", 1) not in other.sampler.log, "it is not sampled again"


@pytest.mark.parametrize("kind", [NativeSampler, HuggingFaceSampler])
def test_samplers_that_read_the_policys_own_tensors_are_refused(kind):
    with pytest.raises(ConfigError, match=r"rollout\.staleness=1.*rollout=vllm_server"):
        Ahead(kind())


def test_an_error_in_the_thread_ends_the_run_by_its_name(policy):
    ahead, batches = ahead_of(policy)
    with serving(FakeVLLM(policy)) as url:
        ahead.sampler = VLLMServerSampler([url], timeout=5)
        next_rollout(ahead, policy, batches[0], TWO, 0)
        ahead._wait()
    with pytest.warns(UserWarning), pytest.raises(SamplerFailed):
        next_rollout(ahead, policy, batches[1], TWO, 0)


def test_a_rollout_that_is_older_than_one_update_is_refused(policy):
    ahead, batches = ahead_of(policy)
    next_rollout(ahead, policy, batches[0], TWO, 0)
    ahead.state_dict()
    old = replace(ahead.pending.result(), version=-1)
    ahead.load_state_dict({"rollout": plain(old)})
    with pytest.raises(WrongWeights, match="version 1 of the weights or 1 before it"):
        next_rollout(ahead, policy, batches[1], TWO, 0)


def run(folder, iterations=4, ckpt_path=None):
    module = tiny_module(iterations, lr=1e-2)
    loader = tiny_loader(module, iterations)
    with serving(FakeVLLM(module.policy)) as url:
        ahead = Ahead(VLLMServerSampler([url], timeout=20))
        ahead.upcoming = loader.batch_or_none
        module.sampler = ahead
        module.correction = ImportanceCorrection("truncate")
        trainer = tiny_trainer(folder)
        trainer.fit(module, loader, ckpt_path=ckpt_path, weights_only=True)
    return module


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    whole = run(tmp_path / "one")
    checkpoint = tmp_path / "one/checkpoints/iteration_000002.ckpt"
    again = run(tmp_path / "two", ckpt_path=checkpoint)
    assert weights_hash(again.state_dict()) == weights_hash(whole.state_dict())
    gaps = read_metrics(tmp_path / "one/metrics.csv")["rollout/logprob_mismatch"][1]
    assert gaps[0] < 1e-4, "the first rollout is of the weights at hand"
    assert min(gaps[1:]) > 1e-3, "the others are an update old"
