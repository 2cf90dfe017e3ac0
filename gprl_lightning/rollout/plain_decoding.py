"""Decoding by the Hugging Face model itself, for every architecture."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from gprl_lightning.models.causal_lm import positions
from gprl_lightning.rollout.cache import make_cache


class PlainDecoding:
    """Each prompt is read once, and its KV cache expanded over the group.

    Args:
        model: any causal LM, in eval and without autograd.
        ids: left-padded prompts.
        mask: their real tokens.
        size: rows that go on from each prompt, side by side.

    Attributes:
        logits: of each row's next token.
    """

    logits: Float[Tensor, "rows vocab"]

    def __init__(
        self,
        model: PreTrainedModel,
        ids: Int[Tensor, "groups prompt_tokens"],
        mask: Bool[Tensor, "groups prompt_tokens"],
        size: int,
    ) -> None:
        start = int((~mask).sum(1).min())
        ids, mask = ids[:, start:], mask[:, start:]
        self.model, self.cache = model, make_cache(model.config)
        out = model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions(mask),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache.batch_repeat_interleave(size)
        self.logits = out.logits[:, -1].repeat_interleave(size, 0)
        self.mask = mask.repeat_interleave(size, 0).long()
        self.positions = mask.sum(1).repeat_interleave(size)

    def advance(self, tokens: Int[Tensor, " rows"]) -> None:
        """Feed the tokens and get the next logits."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        self.logits = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.mask,
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.positions = self.positions + 1

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows."""
        self.cache.batch_select_indices(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]
