"""The engine in the trainer's own environment: what it asks of an ``LLM``. No vLLM is needed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from gprl_lightning.errors import ConfigError, WrongWeights
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.rollout.vllm_local import VLLMSampler
from tests.rollout.fake_vllm import FakeVLLM
from tests.rollout.test_vllm_server import moved, own_logprobs
from tests.tiny import tiny_policy, tiny_prompts

TEXTS = ["hi", "say it again"]


class FakeLLM:
    """``vllm.LLM`` as far as it is used, on the tiny model of `FakeVLLM`."""

    def __init__(self, policy, **options) -> None:
        self.fake, self.options, self.log, self.stale = FakeVLLM(policy), options, [], False

    def collective_rpc(self, method, args):
        assert method == "load_bytes"
        if not self.stale:
            self.fake.policy.model.load_state_dict(safetensors.torch.load(*args), strict=False)

    def reset_prefix_cache(self):
        return True

    def wake_up(self):
        self.log.append("wake")

    def sleep(self, level):
        self.log.append("sleep")

    def generate(self, prompts, params, use_tqdm):
        return [
            self.one(p["prompt_token_ids"], vars(o)) for p, o in zip(prompts, params, strict=True)
        ]

    def one(self, ids, options):
        body = {"model": "policy", "token_ids": ids, "sampling_params": options}
        choices = self.fake.generate(body)[1]["choices"]
        return SimpleNamespace(outputs=[self.output(choice) for choice in choices])

    def output(self, choice):
        content = choice["logprobs"]["content"]
        steps = [{e["token_id"]: SimpleNamespace(logprob=e["logprob"])} for e in content]
        reason, ids = choice["finish_reason"], choice["token_ids"]
        return SimpleNamespace(token_ids=ids, logprobs=steps, finish_reason=reason)


@pytest.fixture
def policy(monkeypatch):
    policy = tiny_policy()
    module = SimpleNamespace(
        LLM=lambda **options: FakeLLM(policy, **options), SamplingParams=SimpleNamespace
    )
    monkeypatch.setitem(sys.modules, "vllm", module)
    return policy


@pytest.mark.parametrize("sleep", [False, True])
def test_responses_of_the_weights_that_were_given_last(policy, sleep):
    sampler = VLLMSampler(sleep=sleep)
    for version in range(2):
        moved(policy, version)
        sampler.weights_changed(policy, version)
        rollout = sampler.sample(policy, tiny_prompts(policy, TEXTS), Sampling(3, 12), 0)
        own = own_logprobs(policy, rollout)
        torch.testing.assert_close(rollout.sampler_logprobs, own, atol=2e-5, rtol=0)
        assert rollout.version == version
    assert sampler.llm.log == (["sleep", "wake"] * 3 + ["sleep"] if sleep else [])
    assert sampler.llm.options["logprobs_mode"] == "raw_logprobs"


def test_a_temperature_with_a_cut_is_refused(policy):
    sampler = VLLMSampler()
    sampler.weights_changed(policy, 0)
    with pytest.raises(ConfigError, match=r"rollout\.temperature=0\.5 with "):
        sampler.sample(policy, tiny_prompts(policy, TEXTS), Sampling(3, 12, 0.5, top_p=0.9), 0)


def test_weights_that_did_not_arrive_end_the_run(policy):
    sampler = VLLMSampler()
    with pytest.raises(WrongWeights, match="weights_changed"):
        sampler.sample(policy, tiny_prompts(policy, TEXTS), Sampling(3, 12), 0)
    sampler.weights_changed(policy, 0)
    sampler.llm.stale = True
    moved(policy)
    with pytest.raises(WrongWeights, match="found a difference of"):
        sampler.weights_changed(policy, 1)


def test_without_vllm_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match="rollout=vllm_server"):
        VLLMSampler()
