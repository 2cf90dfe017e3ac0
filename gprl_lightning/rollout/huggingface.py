"""Sampling by Hugging Face's ``generate``: slower, and a check on the native sampler."""

from __future__ import annotations

import torch

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.models.policy import Policy


class HuggingFaceSampler:
    """The `Sampler` that leaves everything to ``model.generate``.

    Its randomness is torch's generator, seeded from (seed, iteration) and left as it was found:
    repeatable for the same batch, but a response depends on what else is in it. ``old_logprobs``
    come from a forward of the policy. Arguments as in
    `gprl_lightning.rollout.native.NativeSampler`.
    """

    def __init__(
        self,
        group_size: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
    ) -> None:
        self.group_size = group_size
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.min_p = min_p

    def sample(self, policy: Policy, prompts: PromptBatch, seed: int) -> Rollout:
        """Draw the responses. Group-major, padded to the longest one with the policy's pad id."""
        ids = prompts.input_ids.repeat_interleave(self.group_size, 0)
        mask = prompts.mask.repeat_interleave(self.group_size, 0)
        devices = [ids.device] if ids.device.type == "cuda" else []
        with policy.sampling() as model, torch.random.fork_rng(devices):
            torch.manual_seed(hash((seed, prompts.iteration)) % (1 << 63))
            sequences = model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask.long(),
                do_sample=True,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k,
                min_p=self.min_p or None,
                eos_token_id=list(policy.eos_ids),
                pad_token_id=policy.pad_id,
            )
            tokens = sequences[:, ids.shape[1] :]
            ends = torch.isin(tokens, torch.tensor(policy.eos_ids, device=tokens.device))
            # Up to and with the first EOS: pad ids behind it may equal it, so they say nothing.
            response_mask = ends.long().cumsum(1) - ends.long() == 0
            tokens = torch.where(response_mask, tokens, policy.pad_id)
            logprobs, _ = policy(ids, mask, tokens, response_mask)
        responses = policy.decode(tokens, response_mask)
        return Rollout(
            prompts, self.group_size, tokens, response_mask, logprobs, ends.any(1), responses
        )
