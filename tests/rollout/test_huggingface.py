"""The sampler on ``generate``: the same contract, by another road."""

from __future__ import annotations

import math

import pytest
import torch

from gprl_lightning.rollout.huggingface import HuggingFaceSampler
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from tests.tiny import ARCHITECTURES, tiny_policy, tiny_prompts

TEXTS = ["hi", "how are you, my friend?", "a<pad>b"]


@pytest.mark.parametrize("pad", ["<pad>", "<eos>"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_masks_ends_and_logprobs(arch, pad):
    policy = tiny_policy(arch, temperature=0.8, pad=pad)
    prompts = tiny_prompts(policy, TEXTS)
    rollout = HuggingFaceSampler().sample(policy, prompts, Sampling(8, 24, temperature=0.8), 1)
    assert rollout.finished.any() and not rollout.finished.all()
    for row in range(24):
        mask, ids = rollout.response_mask[row], rollout.response_ids[row].tolist()
        length = int(mask.sum())
        assert mask.tolist() == [True] * length + [False] * (len(mask) - length)
        assert bool(rollout.finished[row]) == (ids[length - 1] in policy.eos_ids)
        assert all(token not in policy.eos_ids for token in ids[: length - 1])
    with torch.no_grad():
        logprobs, _ = policy(
            prompts.input_ids.repeat_interleave(8, 0),
            prompts.mask.repeat_interleave(8, 0),
            rollout.response_ids,
            rollout.response_mask,
        )
    torch.testing.assert_close(rollout.old_logprobs, logprobs)
    assert rollout.responses == policy.decode(rollout.response_ids, rollout.response_mask)


def test_repeatable_and_leaves_torchs_generator_alone():
    policy = tiny_policy()
    sampler = HuggingFaceSampler()
    before = torch.get_rng_state()

    def ids(seed: int, iteration: int) -> list[list[int]]:
        prompts = tiny_prompts(policy, TEXTS, iteration)
        return sampler.sample(policy, prompts, Sampling(2, 8), seed).response_ids.tolist()

    base = ids(0, 0)
    torch.rand(5)
    after = torch.get_rng_state()
    assert ids(0, 0) == base
    assert torch.equal(torch.get_rng_state(), after) and not torch.equal(after, before)
    assert ids(1, 0) != base and ids(0, 1) != base


@pytest.mark.parametrize("options", [{"top_k": 4}, {"top_p": 0.4}, {"min_p": 0.3}], ids=str)
def test_filters_leave_the_support_of_the_native_sampler(options):
    policy = tiny_policy()
    prompts = tiny_prompts(policy, ["hi"])
    theirs = HuggingFaceSampler().sample(policy, prompts, Sampling(2000, 1, **options), 0)
    ours = NativeSampler().sample(policy, prompts, Sampling(2000, 1, **options), 0)
    support = set(theirs.response_ids.flatten().tolist())
    assert support == set(ours.response_ids.flatten().tolist())
    assert 1 < len(support) < 60


def test_agrees_with_the_native_sampler_in_distribution():
    """Two-sample chi-square on the first token, 4,000 responses each."""
    policy, size = tiny_policy(temperature=0.5), 4000
    prompts = tiny_prompts(policy, ["hi"])
    samplers, sampling = (HuggingFaceSampler(), NativeSampler()), Sampling(size, 1, temperature=0.5)
    counts = [
        torch.bincount(s.sample(policy, prompts, sampling, 3).response_ids[:, 0], minlength=100)
        for s in samplers
    ]
    total = counts[0] + counts[1]
    seen = total >= 10
    statistic = ((counts[0] - counts[1]) ** 2 / total.clamp(min=1))[seen].sum()
    freedom = int(seen.sum()) - 1
    assert freedom > 10
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


# Each makes another distribution of what is drawn; `generate` reads all of them from the file.
SHAPING = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": [[i] for i in range(4, 40)],
    "suppress_tokens": list(range(4, 40)),
    "begin_suppress_tokens": list(range(4, 60)),
    "forced_eos_token_id": 1,
    "min_new_tokens": 7,
    "typical_p": 0.2,
    "epsilon_cutoff": 0.5,
    "exponential_decay_length_penalty": (1, 3.0),
    "encoder_repetition_penalty": 3.0,
    "sequence_bias": [[[5], 9.0]],
    "num_beams": 2,
    "num_return_sequences": 1,
    "max_length": 3,
    "temperature": 3.0,
    "top_k": 1,
}


@pytest.mark.parametrize("key", SHAPING)
def test_the_models_generation_config_has_no_say(key):
    policy = tiny_policy()
    prompts = tiny_prompts(policy, TEXTS)
    sampler, sampling = HuggingFaceSampler(), Sampling(4, 8)
    expected = sampler.sample(policy, prompts, sampling, 0)
    config = policy.causal_lm.generation_config
    setattr(config, key, SHAPING[key])
    found = sampler.sample(policy, prompts, sampling, 0)
    assert found.responses == expected.responses
    assert torch.equal(found.old_logprobs, expected.old_logprobs)
    assert policy.causal_lm.generation_config is config, "and is left as it was"


@pytest.mark.parametrize("sampler", [HuggingFaceSampler, NativeSampler])
def test_logits_that_are_not_finite_give_tokens_of_the_vocabulary_and_nan(sampler):
    policy = tiny_policy()
    with torch.no_grad():
        policy.causal_lm.get_output_embeddings().weight[7] = float("nan")
    rollout = sampler().sample(policy, tiny_prompts(policy, TEXTS), Sampling(2, 4), 0)
    assert int(rollout.response_ids.max()) < policy.causal_lm.config.vocab_size
    assert rollout.old_logprobs[rollout.response_mask].isnan().all()
