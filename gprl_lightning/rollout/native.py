"""Sampling in plain PyTorch, on the policy's own weights: read a prompt once, decode its group."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.core.transfers import fetched
from gprl_lightning.models.policy import Policy, weights_in
from gprl_lightning.rollout.fixed_shapes import Decoded, FixedShapes
from gprl_lightning.rollout.plain_decoding import PlainDecoding
from gprl_lightning.rollout.randomness import draw, stream_keys
from gprl_lightning.rollout.sampler import Sampler, Sampling
from gprl_lightning.rollout.sampling import sample_tokens
from gprl_lightning.rollout.shared_decoding import SharedDecoding
from gprl_lightning.runtime.sharding import is_sharded, on_any, runs_alone

# On an accelerator, looking whether rows have finished waits for it; on a CPU it is free.
STEPS_BETWEEN_CHECKS = {"cpu": 1}
ACCELERATOR_STEPS_BETWEEN_CHECKS = 8
# Finished rows are dropped once they are this share of all: a copy of the cache against dead work.
COMPACTION_SHARE = 0.125


class NativeSampler:
    """The `Sampler` of choice on one machine.

    Each prompt is read once, and its keys and values are shared by the group (in architectures that
    we do not know, expanded over it); finished rows are dropped; tokens are drawn by inverse CDF
    with counter-based randomness, so a response depends on (weights, seed, iteration, prompt, place
    in the group), and not on what else is in the batch. Ours.

    Args:
        compaction: drop finished rows as decoding goes. Off, the result is the same, and slower.
        fixed_shapes: decode by steps of fixed shapes on a packed copy of the weights, captured as
            CUDA graphs where there is a GPU (`gprl_lightning.rollout.fixed_shapes`); for the
            Llama family. None: on a GPU.
        attention_kernel: let such a step read its keys by one Triton kernel, on a GPU where that
            has been seen to be right; False: by PyTorch's operators.
    """

    own_weights = False

    def __init__(
        self,
        compaction: bool = True,
        fixed_shapes: bool | None = None,
        attention_kernel: bool = True,
    ) -> None:
        self.compaction, self.fixed_shapes = compaction, fixed_shapes
        self.decoder = FixedShapes(attention_kernel)

    def weights_changed(self, policy: Policy, version: int) -> None:
        """Do nothing: the policy's own tensors are read."""

    def beside(self) -> NativeSampler:
        """Return a sampler of the same kind for the reference, which samples in between.

        In fixed shapes it reads the reference into this one's packed weights, which are read anew
        before the policy is sampled, and keeps nothing: it takes no memory of its own but its KV
        cache, and that while it samples.
        """
        other = NativeSampler(self.compaction, self.fixed_shapes)
        other.decoder = FixedShapes(self.decoder.kernel, lender=self.decoder)
        return other

    def sample(
        self, policy: Policy, prompts: PromptBatch, sampling: Sampling, seed: int
    ) -> Rollout:
        """Draw the responses. Group-major, padded to the longest one with the policy's pad id."""
        groups, size = len(prompts), sampling.group_size
        uids = prompts.uids.repeat_interleave(size)
        index = torch.arange(size, device=uids.device).repeat(groups)
        keys = stream_keys(seed, prompts.iteration, uids, index)
        fixed = uids.is_cuda if self.fixed_shapes is None else self.fixed_shapes
        with policy.sampling() as model:
            given = model, prompts.host.input_ids, prompts.host.mask
            if fixed and policy.shares_prompts and not is_sharded(weights_in(policy)):
                decoded = self.decoder.sample(*given, keys, sampling, tuple(policy.eos_ids))
            else:
                kind = SharedDecoding if policy.shares_prompts else PlainDecoding
                rows = _Rows(kind(*given, size), keys, sampling.max_new_tokens)
                eos = torch.tensor(policy.eos_ids, device=uids.device)
                decoded = self._decode(model, rows, sampling, eos)
        tokens, lengths = fetched([decoded.tokens, decoded.lengths])
        longest = int(lengths.max())
        mask = torch.arange(longest, device=uids.device) < decoded.lengths[:, None]
        ids = torch.where(mask, decoded.tokens[:, :longest], policy.pad_id)
        logprobs = torch.where(mask, decoded.logprobs[:, :longest], 0.0)
        responses = policy.decode(tokens[:, :longest], torch.arange(longest) < lengths[:, None])
        finished = decoded.finished
        return Rollout(
            prompts, size, ids, mask, logprobs, finished, responses, logprobs, None
        ).with_lengths(lengths)

    def _decode(
        self, model: PreTrainedModel, rows: _Rows, sampling: Sampling, eos: Int[Tensor, " ends"]
    ) -> Decoded:
        every = STEPS_BETWEEN_CHECKS.get(eos.device.type, ACCELERATOR_STEPS_BETWEEN_CHECKS)
        alone = runs_alone(model)
        for step in range(sampling.max_new_tokens):
            tokens, logprobs = sample_tokens(
                rows.decoding.logits,
                draw(rows.keys, step),
                sampling.temperature,
                sampling.top_p,
                sampling.top_k,
                sampling.min_p,
            )
            rows.record(step, tokens, logprobs, eos)
            if step + 1 == sampling.max_new_tokens:
                break
            if (step + 1) % every == 0:
                ended, active = int(rows.ended.sum()), len(rows.ended)
                left = ended < active
                # Others may need this process's shards: it goes on with rows that have ended.
                if not (left if alone else on_any(left)):
                    break
                if self.compaction and left and ended >= COMPACTION_SHARE * active:
                    tokens = tokens[rows.drop_ended()]
            rows.decoding.advance(tokens)
        rows.finish()
        return Decoded(rows.tokens, rows.logprobs, rows.lengths, rows.finished)


class _Rows:
    """What is known of the responses. Rows of the results are fixed; ``active`` says which of them
    the per-row state (all that `drop_ended` shrinks) stands for."""

    def __init__(
        self,
        decoding: PlainDecoding | SharedDecoding,
        keys: Int[Tensor, " rows"],
        max_new_tokens: int,
    ) -> None:
        rows, device = len(keys), keys.device
        self.tokens = torch.zeros(rows, max_new_tokens, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(rows, max_new_tokens, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.finished = torch.zeros(rows, dtype=torch.bool, device=device)

        self.decoding = decoding
        self.keys = keys
        self.active = torch.arange(rows, device=device)
        self.ended = torch.zeros_like(self.finished)
        self.counts = torch.zeros_like(self.lengths)

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

    def drop_ended(self) -> Int[Tensor, " kept"]:
        """Go on with the rows that have not ended; returns which of the active rows these are."""
        self.finish()
        kept = (~self.ended).nonzero()[:, 0]
        self.decoding.select(kept)
        for name in ("keys", "active", "ended", "counts"):
            setattr(self, name, getattr(self, name)[kept])
        return kept

    def finish(self) -> None:
        """Write the per-row state to the results."""
        self.lengths[self.active] = self.counts
        self.finished[self.active] = self.ended


def reference_sampler(sampler: Sampler) -> NativeSampler:
    """Return what samples the reference: from its own tensors, whatever samples the policy. An
    inference engine holds the policy alone."""
    if isinstance(sampler, NativeSampler):
        return sampler.beside()
    return NativeSampler(fixed_shapes=False)
