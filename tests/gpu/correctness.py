"""On the device: what a CPU's tests cannot show. Each check gives figures and whether they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gprl_lightning.core.batch import Rollout
from gprl_lightning.models.causal_lm import positions
from gprl_lightning.models.packed_attention import packed_attention
from gprl_lightning.models.policy import Policy, reference_of
from gprl_lightning.rollout import fixed_shapes
from gprl_lightning.rollout.decode_attention import attention_for, plain
from gprl_lightning.rollout.fixed_buffers import LayerCache
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.rollout.sampling import sample_tokens
from tests.benchmarks.recording import kernels
from tests.tiny import tiny_model, tiny_prompts, tiny_tokenizer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TEXTS = ["hi", "how are you, my friend?", "a<pad>b", "x"]
SAMPLING = Sampling(8, 96)


@dataclass(frozen=True)
class Finding:
    """What a check found: figures by name, and whether they are as they must be."""

    figures: dict[str, float | str]
    holds: bool


def policy_on_device(dtype: torch.dtype = torch.float32, layers: int = 2) -> Policy:
    policy = Policy(tiny_model("llama", layers=layers), tiny_tokenizer())
    return policy.to(device=DEVICE, dtype=dtype)


def sampled(policy: Policy, sampling: Sampling, fixed: bool, seed: int = 1) -> Rollout:
    prompts = tiny_prompts(policy, TEXTS).to(DEVICE)
    return NativeSampler(fixed_shapes=fixed).sample(policy, prompts, sampling, seed)


def own_logprobs(policy: Policy, rollout: Rollout) -> torch.Tensor:
    """By the Hugging Face model, each row with its prompt, on the plain path."""
    prompts, size = rollout.prompts, rollout.group_size
    ids = torch.cat([prompts.input_ids.repeat_interleave(size, 0), rollout.response_ids], 1)
    mask = torch.cat([prompts.mask.repeat_interleave(size, 0), rollout.response_mask], 1)
    with torch.no_grad():
        logits = policy.causal_lm(
            input_ids=ids, attention_mask=mask.long(), position_ids=positions(mask)
        ).logits
    width = rollout.response_ids.shape[1]
    logprobs = logits[:, -width - 1 : -1].float().log_softmax(-1)
    found = logprobs.gather(-1, rollout.response_ids[..., None])[..., 0]
    return found.masked_fill(~rollout.response_mask, 0)


def greedy_equals_plain() -> Finding:
    """Top-1 in fixed shapes against the plain path's."""
    policy, greedy = policy_on_device(), Sampling(2, 64, top_k=1)
    ours, plain = (sampled(policy, greedy, fixed) for fixed in (True, False))
    equal = torch.equal(ours.response_ids, plain.response_ids)
    return Finding({"tokens": float(ours.response_mask.sum()), "equal": str(equal)}, equal)


def logprobs_are_the_models(dtype: torch.dtype, limit: float) -> Finding:
    """The sampler's against a forward pass of the Hugging Face model, in nats."""
    policy = policy_on_device(dtype)
    rollout = sampled(policy, SAMPLING, fixed=True)
    gap = (rollout.sampler_logprobs - own_logprobs(policy, rollout)).abs()
    largest = float(gap.max())
    return Finding({"largest": largest, "mean": float(gap.mean()), "limit": limit},
                   largest <= limit)  # fmt: skip


def graphs_equal_eager() -> Finding:
    """Captured steps against the same steps one by one; on a CPU nothing is captured."""
    policy = policy_on_device(layers=4)
    captured = sampled(policy, SAMPLING, fixed=True)
    run = fixed_shapes.FixedShapes._run

    def eager(self, step, count, eos_ids):  # type: ignore[no-untyped-def]
        for _ in range(count):
            step()

    fixed_shapes.FixedShapes._run = eager  # type: ignore[method-assign]
    try:
        plain = sampled(policy, SAMPLING, fixed=True)
    finally:
        fixed_shapes.FixedShapes._run = run  # type: ignore[method-assign]
    equal = torch.equal(captured.response_ids, plain.response_ids)
    gap = float((captured.old_logprobs - plain.old_logprobs).abs().max()) if equal else torch.nan
    return Finding({"equal": str(equal), "largest": gap}, equal and gap <= 1e-5)


def a_sampler_follows_the_weights() -> Finding:
    """The second rollout of one sampler, after an update, against a fresh sampler's."""
    policy, sampler = policy_on_device(), NativeSampler(fixed_shapes=True)
    prompts = tiny_prompts(policy, TEXTS).to(DEVICE)
    sampler.sample(policy, prompts, SAMPLING, 1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    again = sampler.sample(policy, prompts, SAMPLING, 2)
    fresh = sampled(policy, SAMPLING, fixed=True, seed=2)
    equal = torch.equal(again.response_ids, fresh.response_ids)
    return Finding({"equal": str(equal)}, equal)


def gradients_equal_plain() -> Finding:
    """The prompt-once forward and backward against the plain one, relative to the largest entry."""
    policy = policy_on_device()
    rollout = sampled(policy, SAMPLING, fixed=True)
    prompts, size = rollout.prompts, rollout.group_size
    given = (
        prompts.input_ids.repeat_interleave(size, 0),
        prompts.mask.repeat_interleave(size, 0),
        rollout.response_ids,
        rollout.response_mask,
    )

    def gradients(shares: bool) -> torch.Tensor:
        policy.zero_grad()
        policy.shares_prompts = shares
        logprobs, _ = policy(*given)
        logprobs.masked_fill(~rollout.response_mask, 0).sum().backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])

    fast, plain = gradients(True), gradients(False)
    error = float((fast - plain).abs().max() / plain.abs().max())
    return Finding({"relative error": error, "limit": 1e-4}, error <= 1e-4)


def nan_is_no_device_assert() -> Finding:
    """Logits of NaN give a token of the vocabulary, with a log-probability of NaN."""
    logits = torch.full((4, 50), torch.nan, device=DEVICE)
    tokens, logprobs = sample_tokens(logits, torch.full((4,), 0.5, device=DEVICE))
    holds = bool((tokens < 50).all()) and bool(logprobs.isnan().all())
    return Finding({"largest token": float(tokens.max())}, holds)


def the_reference_in_the_policys_room() -> Finding:
    """The reference, read into a policy's packed weights, against a sampler of its own."""
    policy, sampler = policy_on_device(), NativeSampler(fixed_shapes=True)
    reference = reference_of(policy).module.to(DEVICE)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    prompts = tiny_prompts(policy, TEXTS).to(DEVICE)
    before = sampler.sample(policy, prompts, SAMPLING, 1)
    lent = sampler.beside().sample(reference, prompts, SAMPLING, 1)
    after = sampler.sample(policy, prompts, SAMPLING, 1)
    equal = torch.equal(lent.response_ids, sampled(reference, SAMPLING, True).response_ids)
    unmoved = torch.equal(before.response_ids, after.response_ids)
    return Finding({"equal": str(equal), "the policy as before": str(unmoved)}, equal and unmoved)


def kernels_are_taken() -> Finding:
    """Which kernels passed their trial on this device, at an 8B model's heads; a CPU has none."""
    values = torch.zeros(8, 8, 128, dtype=torch.bfloat16, device=DEVICE)
    cache = LayerCache(*(torch.zeros(2, 8, 128, 128, dtype=values.dtype, device=DEVICE),) * 4)
    taken = {
        "varlen attention": packed_attention(values, 32) is not None,
        "decode attention": attention_for(cache, 32) is not plain,
    }
    return Finding({name: str(yes) for name, yes in taken.items()},
                   all(taken.values()) or DEVICE == "cpu")  # fmt: skip


def rollout_profile(tokens: int) -> dict[str, Any]:
    """What a whole rollout of so many tokens a row asks of the device, by a sampler that has
    captured its steps before."""
    sampling = Sampling(8, tokens)
    policy, sampler = policy_on_device(layers=4), NativeSampler(fixed_shapes=True)
    prompts = tiny_prompts(policy, TEXTS).to(DEVICE)

    def sample() -> None:
        sampler.sample(policy, prompts, sampling, 1)

    sample()
    return {**kernels(sample), "tokens per row": tokens}


CHECKS: dict[str, Callable[[], Finding]] = {
    "greedy: fixed shapes and plain": greedy_equals_plain,
    "log-probabilities, float32": lambda: logprobs_are_the_models(torch.float32, 1e-4),
    "log-probabilities, bfloat16": lambda: logprobs_are_the_models(torch.bfloat16, 0.5),
    "CUDA graphs and eager": graphs_equal_eager,
    "one sampler after an update": a_sampler_follows_the_weights,
    "gradients: prompt-once and plain": gradients_equal_plain,
    "NaN logits": nan_is_no_device_assert,
    "the reference in the policy's room": the_reference_in_the_policys_room,
    "kernels that passed their trial": kernels_are_taken,
}
