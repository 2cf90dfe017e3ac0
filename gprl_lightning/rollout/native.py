"""Sampling in plain PyTorch, on the policy's own weights: read a prompt once, decode its group."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.models.causal_lm import positions
from gprl_lightning.models.policy import Policy
from gprl_lightning.rollout.cache import make_cache
from gprl_lightning.rollout.randomness import draw, stream_keys
from gprl_lightning.rollout.sampling import sample_tokens

# On an accelerator, looking whether rows have finished waits for it; on a CPU it is free.
STEPS_BETWEEN_CHECKS = {"cpu": 1}
ACCELERATOR_STEPS_BETWEEN_CHECKS = 8
# Finished rows are dropped once they are this share of all: a copy of the cache against dead work.
COMPACTION_SHARE = 0.125


class NativeSampler:
    """The `Sampler` of choice on one machine.

    Each prompt is read once and its KV cache expanded over the group; finished rows are dropped
    from the cache; tokens are drawn by inverse CDF with counter-based randomness, so a response
    depends on (weights, seed, iteration, prompt, place in the group), and not on what else is in
    the batch. Ours.

    Args:
        group_size: G, responses per prompt.
        max_new_tokens: where a response is cut.
        temperature: of sampling; must be the policy's for ``old_logprobs`` to be what it trains on.
        top_p, top_k, min_p: as in `sample_tokens`.
        compaction: drop finished rows as decoding goes. Off, the result is the same, and slower.
    """

    def __init__(
        self,
        group_size: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        compaction: bool = True,
    ) -> None:
        self.group_size = group_size
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.min_p = min_p
        self.compaction = compaction

    def sample(self, policy: Policy, prompts: PromptBatch, seed: int) -> Rollout:
        """Draw the responses. Group-major, padded to the longest one with the policy's pad id."""
        groups, size = len(prompts), self.group_size
        uids = prompts.uids.repeat_interleave(size)
        index = torch.arange(size, device=uids.device).repeat(groups)
        keys = stream_keys(seed, prompts.iteration, uids, index)
        with policy.sampling() as model:
            decoding = _Decoding(model, prompts, size, self.max_new_tokens, keys)
            self._decode(decoding, torch.tensor(policy.eos_ids, device=uids.device))
        lengths, finished = decoding.lengths, decoding.finished
        longest = int(lengths.max())
        mask = torch.arange(longest, device=lengths.device) < lengths[:, None]
        ids = torch.where(mask, decoding.tokens[:, :longest], policy.pad_id)
        logprobs = torch.where(mask, decoding.logprobs[:, :longest], 0.0)
        responses = policy.decode(ids, mask)
        return Rollout(prompts, size, ids, mask, logprobs, finished, responses)

    def _decode(self, rows: _Decoding, eos: Int[Tensor, " ends"]) -> None:
        every = STEPS_BETWEEN_CHECKS.get(eos.device.type, ACCELERATOR_STEPS_BETWEEN_CHECKS)
        for step in range(self.max_new_tokens):
            tokens, logprobs = sample_tokens(
                rows.logits,
                draw(rows.keys, step),
                self.temperature,
                self.top_p,
                self.top_k,
                self.min_p,
            )
            rows.record(step, tokens, logprobs, eos)
            if step + 1 == self.max_new_tokens:
                break
            if (step + 1) % every == 0:
                ended = int(rows.ended.sum())
                if ended == len(rows.ended):
                    break
                if self.compaction and ended >= COMPACTION_SHARE * len(rows.ended):
                    tokens = tokens[rows.drop_ended()]
            rows.advance(tokens)
        rows.finish()


class _Decoding:
    """What changes while responses grow. Rows of the results are fixed; ``active`` says which of
    them the per-row state (all that `drop_ended` shrinks) stands for."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: PromptBatch,
        size: int,
        max_new_tokens: int,
        keys: Int[Tensor, " rows"],
    ) -> None:
        rows, device = len(keys), keys.device
        self.tokens = torch.zeros(rows, max_new_tokens, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(rows, max_new_tokens, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.finished = torch.zeros(rows, dtype=torch.bool, device=device)

        self.model = model
        self.cache, logits = prefill(model, prompts.input_ids, prompts.mask)
        self.cache.batch_repeat_interleave(size)
        self.logits = logits.repeat_interleave(size, 0)
        self.keys = keys
        self.active = torch.arange(rows, device=device)
        self.ended = torch.zeros_like(self.finished)
        self.counts = torch.zeros_like(self.lengths)
        self.positions = prompts.mask.sum(1).repeat_interleave(size)
        self.width = self.cache.get_seq_length()
        mask = prompts.mask[:, prompts.mask.shape[1] - self.width :].repeat_interleave(size, 0)
        self.mask = torch.cat([mask, mask.new_ones(rows, max_new_tokens)], 1).long()

    def record(
        self,
        step: int,
        tokens: Int[Tensor, " active"],
        logprobs: Float[Tensor, " active"],
        eos: Int[Tensor, " ends"],
    ) -> None:
        """Write down a step. What a row that has ended gets is noise, behind its length."""
        self.tokens[self.active, step] = tokens
        self.logprobs[self.active, step] = logprobs
        self.counts += ~self.ended
        self.ended |= torch.isin(tokens, eos)

    def advance(self, tokens: Int[Tensor, " active"]) -> None:
        """Feed the tokens and get the next logits."""
        self.width += 1
        self.logits = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.mask[:, : self.width],
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.positions = self.positions + 1

    def drop_ended(self) -> Int[Tensor, " kept"]:
        """Go on with the rows that have not ended; returns which of the active rows these are."""
        self.finish()
        kept = (~self.ended).nonzero()[:, 0]
        self.cache.batch_select_indices(kept)
        for name in ("keys", "active", "ended", "counts", "positions", "mask"):
            setattr(self, name, getattr(self, name)[kept])
        return kept

    def finish(self) -> None:
        """Write the per-row state to the results."""
        self.lengths[self.active] = self.counts
        self.finished[self.active] = self.ended


def prefill(
    model: PreTrainedModel,
    ids: Int[Tensor, "groups prompt_tokens"],
    mask: Bool[Tensor, "groups prompt_tokens"],
) -> tuple[Cache, Float[Tensor, "groups vocab"]]:
    """Read left-padded prompts: their KV cache, and the logits of the first new token."""
    start = int((~mask).sum(1).min())
    ids, mask = ids[:, start:], mask[:, start:]
    cache = make_cache(model.config)
    out = model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions(mask),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return cache, out.logits[:, -1]
