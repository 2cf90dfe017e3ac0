"""A preference model's states of several answers to a prompt, the prompt read once. Ours.

What a text's prompt begins with, all but its last token, is run once for all texts that begin so;
the prompt's last token, which the gate reads, and the answer are run for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gprl_lightning.core.transfers import sent, sent_together
from gprl_lightning.models.chat_text import TokenizedText, with_gates
from gprl_lightning.models.shared_prompt import prefix_states

Prefix = tuple[int, ...]


def prefix_of(text: TokenizedText) -> Prefix:
    """Return the tokens of its prompt but the last one."""
    return text.ids[: text.prompt_tokens - 1]


def prompt_of(text: TokenizedText) -> Prefix:
    """Return what texts of one prompt have in common: their gate's text if it is apart, else their
    prefix."""
    return text.gate or prefix_of(text)


def batches_by_prompt(texts: Sequence[TokenizedText], size: int) -> list[list[int]]:
    """Return indices of the texts in batches of at most ``size``, of like length; those of one
    prompt lie side by side, and in one batch where they fit."""
    batches: list[list[int]] = [[]]
    order = by_prompt_and_length(texts)
    for _, found in groupby(order, key=lambda i: prompt_of(texts[i])):
        group = list(found)
        for part in (group[i : i + size] for i in range(0, len(group), size)):
            if len(batches[-1]) + len(part) > size:
                batches.append([])
            batches[-1] += part
    return batches


def by_prompt_and_length(texts: Sequence[TokenizedText]) -> list[int]:
    """Return an order in which texts of one prompt lie side by side, and neighbours are of like
    length."""
    longest: dict[Prefix, int] = {}
    for text in texts:
        longest[prompt_of(text)] = max(longest.get(prompt_of(text), 0), len(text.ids))
    place = {prefix: i for i, prefix in enumerate(sorted(longest, key=lambda p: longest[p]))}
    return sorted(range(len(texts)), key=lambda i: (place[prompt_of(texts[i])], len(texts[i].ids)))


def states_of_texts(
    backbone: Any, rows: Sequence[TokenizedText]
) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows width"]]:
    """Return the states at the last token of each text, and of its prompt, whatever else is in the
    batch.

    Args:
        backbone: one for which `gprl_lightning.models.shared_prompt.shares_prompts` is true.
        rows: those that begin alike are read alike once. Of values that do not see the prompt, all
            begin alike, and each different prompt is read once for the gate.
    """
    texts, gates = with_gates(rows)
    prefixes = {prefix: i for i, prefix in enumerate(dict.fromkeys(map(prefix_of, texts)))}
    suffixes = [text.ids[text.prompt_tokens - 1 :] for text in texts]
    lengths = torch.tensor([len(s) for s in suffixes])
    states = prefix_states(
        backbone,
        _padded(list(prefixes)),
        torch.tensor([len(p) for p in prefixes]),
        torch.tensor([prefixes[prefix_of(text)] for text in texts]),
        sent(_padded(suffixes), backbone.device),
        lengths,
    )
    ends = lengths.cumsum(0)
    places = [ends[: len(rows)] - 1, (ends - lengths)[torch.tensor(gates)]]
    last, prompts = sent_together(places, backbone.device)
    return states[last], states[prompts]


def _padded(rows: Sequence[tuple[int, ...]]) -> Tensor:
    return pad_sequence([torch.tensor(r, dtype=torch.long) for r in rows], True)
