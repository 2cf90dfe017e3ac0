"""The native sampler: exact log-probabilities, and responses that depend on nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.models.policy import Policy
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from tests.tiny import ARCHITECTURES, EOS, PAD, chat, tiny_model, tiny_policy, tiny_prompts

TEXTS = ["hi", "how are you, my friend?", "a<pad>b"]


def logprobs_of(policy: Policy, rollout: Rollout) -> torch.Tensor:
    prompts, size = rollout.prompts, rollout.group_size
    with torch.no_grad():
        return policy(
            prompts.input_ids.repeat_interleave(size, 0),
            prompts.mask.repeat_interleave(size, 0),
            rollout.response_ids,
            rollout.response_mask,
        )[0]


def row_tokens(rollout: Rollout, row: int) -> list[int]:
    return rollout.response_ids[row][rollout.response_mask[row]].tolist()


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.01}]
)
@pytest.mark.parametrize("pad", ["<pad>", "<eos>"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_own_logprobs_equal_the_policys(arch, pad, options):
    policy = tiny_policy(arch, options.get("temperature", 1.0), pad)
    rollout = NativeSampler().sample(
        policy, tiny_prompts(policy, TEXTS), Sampling(4, 24, **options), 1
    )
    torch.testing.assert_close(
        rollout.old_logprobs, logprobs_of(policy, rollout), atol=1e-5, rtol=0
    )
    assert torch.all(rollout.old_logprobs[~rollout.response_mask] == 0)
    # Short and long, ended and cut ones are all among them, or the test would not say much.
    assert rollout.finished.any() and not rollout.finished.all()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_logprobs_equal_a_forward_of_each_row_alone(arch):
    policy = tiny_policy(arch, temperature=0.9)
    rollout = NativeSampler().sample(
        policy, tiny_prompts(policy, TEXTS), Sampling(3, 24, temperature=0.9), 2
    )
    for row in range(9):
        prompts = rollout.prompts
        prompt = prompts.input_ids[row // 3][prompts.mask[row // 3]]
        response = torch.tensor(row_tokens(rollout, row))
        with torch.no_grad():
            logits = policy.causal_lm(torch.cat([prompt, response])[None]).logits[0]
        expected = torch.log_softmax(logits[len(prompt) - 1 : -1].double() / 0.9, -1)
        expected = expected.gather(1, response[:, None])[:, 0]
        found = rollout.old_logprobs[row][rollout.response_mask[row]].double()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_response_does_not_depend_on_the_batch(arch):
    """Alone, in a batch, in another order, beside a longer prompt: the same tokens."""
    policy = tiny_policy(arch)
    sampler, four = NativeSampler(), Sampling(4, 20)
    together = sampler.sample(policy, tiny_prompts(policy, TEXTS), four, 3)
    for i, text in enumerate(TEXTS):
        alone = sampler.sample(policy, tiny_prompts(policy, [text], first=i), four, 3)
        for place in range(4):
            assert row_tokens(alone, place) == row_tokens(together, 4 * i + place)
    backwards = policy.encode_prompts(
        0, [9, 2, 1, 0], [chat("x" * 40), *map(chat, TEXTS[::-1])], 99
    )
    other = sampler.sample(policy, backwards, four, 3)
    assert [row_tokens(other, 12 + i) for i in range(4)] == [
        row_tokens(together, i) for i in range(4)
    ]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compaction_changes_nothing_but_the_work(arch):
    policy = tiny_policy(arch)
    prompts = tiny_prompts(policy, TEXTS)
    on, off = (
        NativeSampler(compaction).sample(policy, prompts, Sampling(8, 90), 4)
        for compaction in (True, False)
    )
    assert torch.equal(on.response_ids, off.response_ids)
    assert torch.equal(on.finished, off.finished)
    torch.testing.assert_close(on.old_logprobs, off.old_logprobs, atol=1e-5, rtol=0)
    assert len(set(on.response_mask.sum(1).tolist())) > 4


@pytest.mark.parametrize("pad", ["<pad>", "<eos>", None])
def test_masks_ends_and_padding(pad):
    policy = tiny_policy(pad=pad)
    rollout = NativeSampler().sample(policy, tiny_prompts(policy, TEXTS), Sampling(16, 30), 5)
    assert rollout.response_ids.shape == rollout.response_mask.shape == rollout.old_logprobs.shape
    seen = set()
    for row, (ids, mask) in enumerate(
        zip(rollout.response_ids.tolist(), rollout.response_mask.tolist(), strict=True)
    ):
        length = sum(mask)
        assert mask == [True] * length + [False] * (len(mask) - length)
        assert all(token not in policy.eos_ids for token in ids[: length - 1])
        assert bool(rollout.finished[row]) == (ids[length - 1] in policy.eos_ids)
        assert rollout.finished[row] or length == 30
        assert all(token == policy.pad_id for token in ids[length:])
        seen.add(ids[length - 1] if rollout.finished[row] else None)
    assert seen == {*policy.eos_ids, None}
    assert rollout.response_mask.any(0).all()
    assert rollout.responses == policy.decode(rollout.response_ids, rollout.response_mask)


def test_a_sampled_pad_token_is_a_token():
    """The pad id is an ordinary token to the model: it neither ends a response nor is masked."""
    policy = tiny_policy()
    with torch.no_grad():
        policy.causal_lm.lm_head.weight[PAD] *= 4
    rollout = NativeSampler().sample(policy, tiny_prompts(policy, TEXTS), Sampling(16, 30), 5)
    assert (rollout.response_ids[rollout.response_mask] == PAD).sum() > 10
    torch.testing.assert_close(
        rollout.old_logprobs, logprobs_of(policy, rollout), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_greedy_agrees_with_generate(arch):
    policy = tiny_policy(arch)
    prompts = tiny_prompts(policy, TEXTS)
    greedy = NativeSampler().sample(policy, prompts, Sampling(1, 24, top_k=1), 0)
    cold = NativeSampler().sample(policy, prompts, Sampling(1, 24, temperature=1e-4), 0)
    assert torch.equal(greedy.response_ids, cold.response_ids)
    sequences = policy.causal_lm.generate(
        input_ids=prompts.input_ids,
        attention_mask=prompts.mask.long(),
        do_sample=False,
        max_new_tokens=24,
        eos_token_id=list(policy.eos_ids),
        pad_token_id=PAD,
    )[:, prompts.input_ids.shape[1] :]
    assert torch.equal(greedy.response_ids, sequences)


def test_first_tokens_have_the_models_distribution():
    """Chi-square of 4,000 responses of one token against the model's own softmax."""
    policy, size = tiny_policy(temperature=0.5), 4000
    prompts = tiny_prompts(policy, ["hi"])
    rollout = NativeSampler().sample(policy, prompts, Sampling(size, 1, temperature=0.5), 6)
    with torch.no_grad():
        logits = policy.causal_lm(prompts.input_ids).logits[0, -1]
    expected = size * torch.softmax(logits / 0.5, -1)
    counts = torch.bincount(rollout.response_ids[:, 0], minlength=len(expected))
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    freedom = len(expected) - 1
    assert freedom > 10
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)
    assert torch.equal(
        rollout.finished, torch.isin(rollout.response_ids[:, 0], torch.tensor(policy.eos_ids))
    )


def test_randomness_is_keyed_by_seed_iteration_prompt_and_place():
    policy = tiny_policy()
    sampler, four = NativeSampler(), Sampling(4, 12)

    def first(seed: int = 0, iteration: int = 0, uid: int = 0) -> list[list[int]]:
        prompts = tiny_prompts(policy, ["hi"], iteration, uid)
        rollout = sampler.sample(policy, prompts, four, seed)
        return [row_tokens(rollout, row) for row in range(4)]

    base = first()
    assert base == first()
    assert len({tuple(tokens) for tokens in base}) == 4
    for other in (first(seed=1), first(iteration=1), first(uid=1)):
        assert all(tokens not in other for tokens in base)


def test_a_generator_of_torch_is_neither_used_nor_moved():
    policy = tiny_policy()
    before = torch.get_rng_state()
    NativeSampler().sample(policy, tiny_prompts(policy, ["hi"]), Sampling(2, 4), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_the_same_with_gradient_checkpointing_and_leaves_the_mode():
    policy = tiny_policy()
    prompts = tiny_prompts(policy, TEXTS)
    plain = NativeSampler().sample(policy, prompts, Sampling(2, 12), 7)
    policy.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
    policy.train()
    rollout = NativeSampler().sample(policy, prompts, Sampling(2, 12), 7)
    assert torch.equal(rollout.response_ids, plain.response_ids)
    assert policy.training and policy.causal_lm.training
    assert not rollout.old_logprobs.requires_grad


def test_padding_columns_of_the_batch_are_not_read():
    policy = tiny_policy()
    prompts = tiny_prompts(policy, TEXTS)
    wide = PromptBatch(
        prompts.iteration,
        prompts.uids,
        prompts.messages,
        torch.nn.functional.pad(prompts.input_ids, (9, 0), value=EOS),
        torch.nn.functional.pad(prompts.mask, (9, 0)),
    )
    two = Sampling(2, 8)
    ours, expected = (NativeSampler().sample(policy, p, two, 8) for p in (wide, prompts))
    assert torch.equal(ours.response_ids, expected.response_ids)
    assert torch.equal(ours.old_logprobs, expected.old_logprobs)


def test_llama_with_a_wide_head_dimension_and_many_tokens():
    """More new tokens than a cache buffer has room for, and a model of another shape."""
    policy = Policy(tiny_model("llama", hidden=64, layers=1), tiny_policy().tokenizer)
    rollout = NativeSampler().sample(policy, tiny_prompts(policy, ["hi"]), Sampling(6, 150), 1)
    assert rollout.response_ids.shape[1] > 70
    torch.testing.assert_close(
        rollout.old_logprobs, logprobs_of(policy, rollout), atol=1e-5, rtol=0
    )
