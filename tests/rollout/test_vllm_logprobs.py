"""Which log-probabilities servers report: with a temperature, with a cut, and with both."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.errors import ConfigError, WrongWeights
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.rollout.vllm_server import VLLMServerSampler
from tests.rollout.fake_vllm import FakeVLLM, serving
from tests.rollout.test_vllm_server import TEXTS, own_logprobs
from tests.tiny import tiny_policy, tiny_prompts


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_servers_mode_must_be_that_of_the_temperature(temperature):
    """Raw log-probabilities are of temperature 1, processed ones of the temperature asked for."""
    policy = tiny_policy(temperature=temperature)
    right = "raw_logprobs" if temperature == 1 else "processed_logprobs"
    sampling = Sampling(3, 12, temperature)
    with serving(FakeVLLM(policy, logprobs=right)) as url:
        sampler = VLLMServerSampler([url], timeout=20)
        sampler.weights_changed(policy, 0)
        rollout = sampler.sample(policy, tiny_prompts(policy, TEXTS), sampling, 0)
        found, own = rollout.sampler_logprobs, own_logprobs(policy, rollout)
        torch.testing.assert_close(found, own, atol=2e-5, rtol=0)
    if temperature != 1:
        with serving(FakeVLLM(policy)) as url, pytest.raises(WrongWeights, match="processed_logp"):
            VLLMServerSampler([url], timeout=20).weights_changed(policy, 0)


CUTS = [{"top_k": 4}, {"top_p": 0.6}, {"min_p": 0.2}]


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_log_probabilities_of_a_cut_distribution_are_those_before_the_cut(cut):
    policy = tiny_policy()
    prompts, sampling = tiny_prompts(policy, TEXTS), Sampling(3, 12, **cut)
    with serving(FakeVLLM(policy)) as url:
        sampler = VLLMServerSampler([url], timeout=20)
        sampler.weights_changed(policy, 0)
        rollout = sampler.sample(policy, prompts, sampling, 0)
        found, own = rollout.sampler_logprobs, own_logprobs(policy, rollout)
        torch.testing.assert_close(found, own, atol=2e-5, rtol=0)
    with serving(FakeVLLM(policy, logprobs="processed_logprobs")) as url:
        sampler = VLLMServerSampler([url], timeout=20)
        sampler.weights_changed(policy, 0)  # the whole distribution at temperature 1 is the same
        with pytest.raises(ConfigError, match="--logprobs raw_logprobs"):
            sampler.sample(policy, prompts, sampling, 0)


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_temperature_with_a_cut_is_refused_before_anything_is_asked(cut):
    """vLLM reports log-probabilities before both or behind both, and the policy's lie between."""
    policy = tiny_policy(temperature=0.5)
    fake = FakeVLLM(policy, logprobs="processed_logprobs")
    with serving(fake) as url:
        sampler = VLLMServerSampler([url], timeout=20)
        sampler.weights_changed(policy, 0)
        asked = len(fake.prompts)
        with pytest.raises(ConfigError, match=r"rollout\.temperature=0\.5 with .*rollout=native"):
            sampler.sample(policy, tiny_prompts(policy, TEXTS), Sampling(3, 12, 0.5, **cut), 0)
        assert len(fake.prompts) == asked
        greedy = sampler.sample(
            policy, tiny_prompts(policy, TEXTS), Sampling(1, 12, 0.5, top_k=1), 0
        )
        assert greedy.version == 0, "of a greedy response they are used by nobody"
