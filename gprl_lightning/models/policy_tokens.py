"""Chat messages to the policy's tokens: its own template, its own end-of-sequence tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gprl_lightning.errors import ConfigError


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return every token that ends a response: those of the generation config, where chat models
    list their end-of-turn token, and the tokenizer's.

    Raises:
        ConfigError: there is none.
    """
    config = model.generation_config
    listed: Any = config.eos_token_id if config is not None else None
    ends = [] if listed is None else [*listed] if isinstance(listed, list) else [listed]
    embeddings: Any = model.get_input_embeddings()
    vocabulary = embeddings.weight.shape[0]
    if wrong := [e for e in ends if type(e) is not int or not 0 <= e < vocabulary]:
        raise ConfigError(
            f"policy.path: expected token ids below {vocabulary} as eos_token_id in "
            f"generation_config.json; found {wrong[0]!r}. Write a number, or a list of numbers."
        )
    if tokenizer.eos_token_id is not None:
        ends.append(int(tokenizer.eos_token_id))  # type: ignore[arg-type]
    if not ends:
        raise ConfigError(
            "policy.path: expected an end-of-sequence token in its generation config or tokenizer; "
            "found none, so no response could end. Set eos_token in the tokenizer's files."
        )
    return tuple(dict.fromkeys(ends))


def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of an answer; special tokens that it spells are read as letters."""
    ids: Any = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def left_pad(
    rows: Sequence[list[int]], pad_id: int
) -> tuple[Int[Tensor, "rows tokens"], Bool[Tensor, "rows tokens"]]:
    """Return token lists as one batch, and which of it is real."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        ids[row, width - len(tokens) :] = torch.tensor(tokens)
        mask[row, width - len(tokens) :] = True
    return ids, mask
