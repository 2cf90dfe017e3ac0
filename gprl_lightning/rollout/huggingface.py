"""Sampling by Hugging Face's ``generate``: slower, and a check on the native sampler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.models.policy import Policy
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.runtime.sharding import runs_alone


class HuggingFaceSampler:
    """The `Sampler` that leaves everything to ``model.generate``.

    Its randomness is torch's generator, seeded from (seed, iteration) and left as it was found:
    repeatable for the same batch, but a response depends on what else is in it. ``old_logprobs``
    come from a forward of the policy.
    """

    own_weights = False

    def weights_changed(self, policy: Policy, version: int) -> None:
        """Do nothing: the policy's own tensors are read."""

    def sample(
        self, policy: Policy, prompts: PromptBatch, sampling: Sampling, seed: int
    ) -> Rollout:
        """Draw the responses. Group-major, padded to the longest one with the policy's pad id."""
        ids = prompts.input_ids.repeat_interleave(sampling.group_size, 0)
        mask = prompts.mask.repeat_interleave(sampling.group_size, 0)
        devices = [ids.device] if ids.device.type == "cuda" else []
        options = _options(policy, sampling)
        with policy.sampling() as model, _only(model, options), torch.random.fork_rng(devices):
            torch.manual_seed(hash((seed, prompts.iteration)) % (1 << 63))
            sequences = model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask.long(),
                generation_config=options,
                # Layers that are gathered one by one are gathered by all processes together.
                synced_gpus=not runs_alone(model),
            )
            tokens = sequences[:, ids.shape[1] :]
            ends = torch.isin(tokens, torch.tensor(policy.eos_ids, device=tokens.device))
            # Up to and with the first EOS: pad ids behind it may equal it, so they say nothing.
            response_mask = ends.long().cumsum(1) - ends.long() == 0
            tokens = torch.where(response_mask, tokens, policy.pad_id)
            logprobs, _ = policy(ids, mask, tokens, response_mask)
        responses = policy.decode(tokens, response_mask)
        size, finished = sampling.group_size, ends.any(1)
        return Rollout(
            prompts, size, tokens, response_mask, logprobs, finished, responses, logprobs, None
        )


@contextmanager
def _only(model: Any, options: GenerationConfig) -> Iterator[None]:
    """Take the model's own generation config away: ``generate`` fills in from it what is not set.

    A repetition penalty or a list of suppressed tokens would draw from another distribution than
    the one whose log-probabilities are trained.
    """
    own, model.generation_config = model.generation_config, options
    try:
        yield
    finally:
        model.generation_config = own


def _options(policy: Policy, sampling: Sampling) -> GenerationConfig:
    """Return all that shapes a draw: nothing comes from the model's generation_config.json."""
    return GenerationConfig(
        do_sample=True,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p or None,
        eos_token_id=list(policy.eos_ids),
        pad_token_id=policy.pad_id,
        remove_invalid_values=True,  # NaN: its log-probabilities make it a bad step
    )
