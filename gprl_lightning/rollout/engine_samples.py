"""From an inference engine's samples to a `Rollout`; seeds, options and probes that all engines
share. Ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.errors import ConfigError, SamplerFailed
from gprl_lightning.models.policy import Policy
from gprl_lightning.rollout.randomness import stream_keys
from gprl_lightning.rollout.sampler import Sampling

# A prompt longer than a block of any engine's prefix cache: asked again after each update, it would
# be answered from the keys and values of the weights before, if the cache were not emptied.
PROBE_PROMPT, PROBE_RESPONSES, PROBE_TOKENS = 144, 2, 8
PROBE_TEXT = "The quick brown fox, 1234 jumps: over the lazy dogs? "


class EngineSample(Protocol):
    """One response: its tokens with the EOS, their log-probabilities, whether it ended itself."""

    @property
    def ids(self) -> list[int]: ...

    @property
    def logprobs(self) -> list[float]: ...

    @property
    def finished(self) -> bool: ...


def prompt_rows(prompts: PromptBatch) -> list[list[int]]:
    """Return the token ids of each prompt, without padding."""
    pairs = zip(prompts.input_ids.cpu(), prompts.mask.cpu(), strict=True)
    return [ids[mask].tolist() for ids, mask in pairs]


def request_seeds(prompts: PromptBatch, seed: int) -> list[int]:
    """Return one seed per prompt, keyed as the native sampler's: (seed, iteration, prompt).

    An engine draws sample i of a request with seed + i; hashed ones lie too far apart to meet.
    """
    keys = stream_keys(seed, prompts.iteration, prompts.uids, torch.zeros_like(prompts.uids))
    return [key % (1 << 62) for key in keys.tolist()]


def require_reportable(sampling: Sampling) -> None:
    """Check that vLLM can report the log-probabilities of the policy for these samples.

    It reports those before temperature and cut, or those behind both. A greedy response's are used
    by nobody.

    Raises:
        ConfigError: they are wanted behind the temperature and before the cut.
    """
    if sampling.cuts and sampling.temperature != 1 and sampling.top_k != 1:
        raise ConfigError(
            f"rollout.temperature={sampling.temperature} with rollout.top_p={sampling.top_p}, "
            f"rollout.top_k={sampling.top_k}, rollout.min_p={sampling.min_p}: expected a "
            "temperature of 1 or no cut, as vLLM reports log-probabilities before both or behind "
            "both. Change one of them, or choose rollout=native."
        )


def engine_options(sampling: Sampling, eos_ids: Sequence[int]) -> dict[str, Any]:
    """Return vLLM's sampling parameters. What ends a response is said by the policy alone."""
    return {
        "n": sampling.group_size,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "stop_token_ids": list(eos_ids),
        "ignore_eos": True,
    }


def as_rollout(
    policy: Policy,
    prompts: PromptBatch,
    sampling: Sampling,
    groups: Sequence[Sequence[EngineSample]],
    version: int,
) -> Rollout:
    """Return the samples as a rollout, right-padded, on the prompts' device.

    Raises:
        SamplerFailed: tokens that the policy does not have, or a response that was cut too early.
    """
    samples = [sample for group in groups for sample in group]
    for sample in samples:
        _require_sound(policy, sample, sampling.max_new_tokens)
    width = max(len(sample.ids) for sample in samples)
    shape, device = (len(samples), width), prompts.input_ids.device
    ids, logprobs = torch.full(shape, policy.pad_id), torch.zeros(shape)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        logprobs[row, : len(sample.ids)] = torch.tensor(sample.logprobs)
    lengths = torch.tensor([len(sample.ids) for sample in samples])
    mask = torch.arange(width) < lengths[:, None]
    responses = policy.decode(ids, mask)
    finished = torch.tensor([sample.finished for sample in samples])
    rows = (ids, mask, logprobs, finished)
    ids, mask, logprobs, finished = (tensor.to(device) for tensor in rows)
    size = sampling.group_size
    return Rollout(prompts, size, ids, mask, logprobs, finished, responses, logprobs, version)


def _require_sound(policy: Policy, sample: EngineSample, max_new_tokens: int) -> None:
    embeddings: Any = policy.causal_lm.get_input_embeddings()
    if not sample.ids or max(sample.ids) >= embeddings.num_embeddings:
        raise SamplerFailed(
            f"rollout.sampler: expected tokens of the policy's {embeddings.num_embeddings}; found "
            f"{max(sample.ids, default='none')}. The engine serves a model of another vocabulary: "
            "start it with the folder of policy.path."
        )
    if not sample.finished and len(sample.ids) < max_new_tokens:
        raise SamplerFailed(
            f"rollout.max_new_tokens={max_new_tokens}: expected room for as many tokens; the "
            f"engine cut a response at {len(sample.ids)}. Start it with a --max-model-len of at "
            "least data.max_prompt_tokens + rollout.max_new_tokens."
        )


def probe_prompt(policy: Policy) -> list[int]:
    """Return the probe's prompt: `PROBE_PROMPT` token ids, the same each time."""
    ids: list[int] = policy.tokenizer(PROBE_TEXT, add_special_tokens=False)["input_ids"]  # type: ignore[assignment]
    return (ids * PROBE_PROMPT)[:PROBE_PROMPT]


def probe_sampling(policy: Policy) -> Sampling:
    """Return how the probe is drawn: at the policy's temperature, from the whole distribution."""
    return Sampling(PROBE_RESPONSES, PROBE_TOKENS, policy.temperature)


@torch.no_grad()
def probe_gap(policy: Policy, prompt: list[int], samples: Sequence[EngineSample]) -> float:
    """Return the largest difference, in nats, of the probe's log-probabilities from the policy's.

    Every process calls it: with a policy that is spread over them, its forward takes all.
    """
    device = next(policy.parameters()).device
    width = max(len(sample.ids) for sample in samples)
    ids: Int[Tensor, "rows tokens"] = torch.zeros(len(samples), width, dtype=torch.long)
    says: Float[Tensor, "rows tokens"] = torch.zeros(len(samples), width)
    mask = torch.zeros(len(samples), width, dtype=torch.bool)
    for row, sample in enumerate(samples):
        length = len(sample.ids)
        ids[row, :length], says[row, :length] = (
            torch.tensor(sample.ids),
            torch.tensor(sample.logprobs),
        )
        mask[row, :length] = True
    prompts = torch.tensor([prompt] * len(samples), device=device)
    own, _ = policy(prompts, torch.ones_like(prompts).bool(), ids.to(device), mask.to(device))
    return float((own.cpu().float() - says)[mask].abs().max())
