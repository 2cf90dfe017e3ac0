"""Decoding with each prompt's keys and values held once, for the Llama family. Ours.

A row reads the prompt's keys, which its group shares, and those of its own response, under one
softmax. All queries of a group meet the prompt's keys in one product, and nothing is expanded or
copied when a row ends but what the row itself has written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from gprl_lightning.core.host_tokens import places_of
from gprl_lightning.core.transfers import sent, sent_together
from gprl_lightning.models.causal_lm import flush_left
from gprl_lightning.models.decoder import (
    Heads,
    keys_values,
    norm,
    rotary,
    run_layer,
    scaled_attention,
)
from gprl_lightning.models.shared_prompt import padded
from gprl_lightning.runtime.sharding import gathered

ROOM = 64  # tokens of spare room at least, whenever a buffer is made


class SharedDecoding:
    """As `gprl_lightning.rollout.plain_decoding.PlainDecoding`, for models of which
    `gprl_lightning.models.shared_prompt.shares_prompts` is true."""

    logits: Float[Tensor, "rows vocab"]

    def __init__(
        self,
        model: PreTrainedModel,
        ids: Int[Tensor, "groups prompt_tokens"],
        mask: Bool[Tensor, "groups prompt_tokens"],
        size: int,
    ) -> None:
        self.backbone: Any = model.base_model
        self.head: Any = model.get_output_embeddings()
        lengths, device = mask.sum(1) - 1, model.device
        prompts = flush_left(ids, mask, int(lengths.max()) + 1)
        self.positions = sent(lengths, device)
        self.prompts = read_prompts(self.backbone, prompts, lengths, device)
        self.own = [_Own() for _ in self.prompts.layers]
        self.grid = _Grid.of(torch.arange(len(ids), device=device))
        # The last token is the first that rows feed: what it adds is then copied to each of them.
        self.advance(sent(prompts.gather(1, lengths[:, None])[:, 0], device))
        self.select(self.grid.group.repeat_interleave(size))

    def advance(self, tokens: Int[Tensor, " rows"]) -> None:
        """Feed the tokens and get the next logits."""
        hidden = self.backbone.embed_tokens(tokens)
        angles = rotary(self.backbone, hidden, self.positions)
        for layer, prompt, own in zip(
            self.backbone.layers, self.prompts.layers, self.own, strict=True
        ):

            def attend(queries: Heads, keys: Heads, values: Heads, p=prompt, o=own) -> Heads:
                return self._attend(queries, keys, values, p, o)

            with gathered(layer):
                hidden = run_layer(layer, hidden, angles, attend)
        self.logits = self.head(norm(self.backbone.norm, hidden))
        self.positions = self.positions + 1

    def _attend(
        self, queries: Heads, keys: Heads, values: Heads, prompt: PromptLayer, own: _Own
    ) -> Heads:
        own_keys, own_values = own.append(keys, values)
        rows, heads, width = queries.shape
        kv_heads = keys.shape[1]
        # [kv_heads, rows, …] throughout: rows of a group, and heads of a key, lie side by side.
        asked = queries.to(values.dtype).view(rows, kv_heads, -1, width).transpose(0, 1)
        asked = (asked * width**-0.5).contiguous()
        grid, shape = self.grid, (kv_heads, rows, heads // kv_heads)
        bias = self.prompts.bias.to(values.dtype).expand(kv_heads, -1, -1, -1)
        of_prompt = torch.baddbmm(
            bias.flatten(0, 1), grid.spread(asked).flatten(0, 1), prompt.keys.flatten(0, 1)
        )
        of_own = asked.flatten(0, 1) @ own_keys.flatten(0, 1).transpose(1, 2)
        scores = torch.cat([grid.collect(of_prompt, shape), of_own.unflatten(0, shape[:2])], -1)
        # Half precision has too few digits for the sum of hundreds of exponentials.
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=wide).to(values.dtype)
        to_prompt, to_own = weights.split([of_prompt.shape[-1], of_own.shape[-1]], -1)
        read = grid.spread(to_prompt).flatten(0, 1) @ prompt.values.flatten(0, 1)
        read = grid.collect(read, shape)
        read = read + (to_own.flatten(0, 1) @ own_values.flatten(0, 1)).unflatten(0, shape[:2])
        return read.transpose(0, 1).reshape(rows, heads, width)

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows; one may be taken several times."""
        self.logits, self.positions = self.logits[rows], self.positions[rows]
        for own in self.own:
            own.select(rows)
        groups, group = self.grid.group[rows].unique(return_inverse=True)
        if len(groups) < len(self.prompts.bias):
            self.prompts.select(groups)
        self.grid = _Grid.of(group)


@dataclass(frozen=True)
class _Grid:
    """The rows of each group, as many places for each group as the largest one needs.

    Attributes:
        group: the row's group; rows of a group lie side by side.
        groups, places: size of the grid.
        slots: each row's place in it; None: rows fill it as they stand.
    """

    group: Int[Tensor, " rows"]
    groups: int
    places: int
    slots: Int[Tensor, " rows"] | None

    @staticmethod
    def of(group: Int[Tensor, " rows"]) -> _Grid:
        counts = group.bincount()
        groups, places = len(counts), int(counts.max())
        if groups * places == len(group):
            return _Grid(group, groups, places, None)
        first = counts.cumsum(0) - counts
        within = torch.arange(len(group), device=group.device) - first[group]
        return _Grid(group, groups, places, group * places + within)

    def spread(
        self, of_rows: Float[Tensor, "kv_heads rows repeats width"]
    ) -> Float[Tensor, "kv_heads groups queries width"]:
        if self.slots is not None:
            kv_heads, _, repeats, width = of_rows.shape
            empty = of_rows.new_zeros(kv_heads, self.groups * self.places, repeats, width)
            of_rows = empty.index_copy_(1, self.slots, of_rows)
        return of_rows.unflatten(1, (self.groups, self.places)).flatten(2, 3)

    def collect(
        self, of_grid: Float[Tensor, "batches queries width"], shape: tuple[int, int, int]
    ) -> Float[Tensor, "kv_heads rows repeats width"]:
        kv_heads, _, repeats = shape
        found = of_grid.view(kv_heads, self.groups * self.places, repeats, -1)
        return found if self.slots is None else found.index_select(1, self.slots)


class _Own:
    """One layer's keys and values of the responses, in buffers with room to grow."""

    def __init__(self) -> None:
        self.held = 0
        self.buffers: list[Tensor] = []

    def append(self, keys: Heads, values: Heads) -> tuple[Tensor, Tensor]:
        """Write the new tokens down; all so far, as [kv_heads, rows, tokens, width]."""
        new = [x.to(values.dtype).transpose(0, 1) for x in (keys, values)]
        if not self.buffers:
            self.buffers = [x.new_empty(*x.shape[:2], 1, x.shape[2]) for x in new]
        if self.held == self.buffers[0].shape[2]:
            self.buffers = [*map(_with_room, self.buffers)]
        for buffer, states in zip(self.buffers, new, strict=True):
            buffer[:, :, self.held] = states
        self.held += 1
        keys, values = (buffer[:, :, : self.held] for buffer in self.buffers)
        return keys, values

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        self.buffers = [buffer.index_select(1, rows) for buffer in self.buffers]


def _with_room(buffer: Tensor) -> Tensor:
    held = buffer.shape[2]
    shape = (*buffer.shape[:2], held + max(ROOM, held // 4), buffer.shape[3])
    wider = buffer.new_empty(shape)
    wider[:, :, :held] = buffer
    return wider


@dataclass
class PromptLayer:
    """One layer's keys and values of the prompts."""

    keys: Float[Tensor, "kv_heads groups width tokens"]
    values: Float[Tensor, "kv_heads groups tokens width"]


@dataclass
class Prompts:
    """What was read of the prompts (without their last tokens), and a bias of -inf on padding."""

    layers: list[PromptLayer]
    bias: Float[Tensor, "groups 1 tokens"]

    def select(self, groups: Int[Tensor, " kept"]) -> None:
        self.bias = self.bias[groups]
        for layer in self.layers:
            layer.keys = layer.keys.index_select(1, groups)
            layer.values = layer.values.index_select(1, groups)


def read_prompts(
    backbone: Any,
    prompts: Int[Tensor, "groups tokens"],
    lengths: Int[Tensor, " groups"],
    device: torch.device,
) -> Prompts:
    """Run all tokens of the prompts but the last; of the last layer only keys and values.

    Prompts, right-padded, and their lengths without the last token are the host's.
    """
    groups, width = len(prompts), max(1, prompts.shape[1] - 1)
    group, column = places_of(lengths)
    tokens, places, columns, held = sent_together(
        [prompts[group, column], group * width + column, column, lengths], device
    )
    layers: list[PromptLayer] = []

    def rectangle(flat: Heads) -> Float[Tensor, "groups tokens heads width"]:
        return padded(flat, places, groups, width)

    def keep(keys: Heads, values: Heads) -> None:
        held = rectangle(keys.to(values.dtype)), rectangle(values)
        layers.append(
            PromptLayer(
                held[0].permute(2, 0, 3, 1).contiguous(), held[1].permute(2, 0, 1, 3).contiguous()
            )
        )

    def attend(queries: Heads, keys: Heads, values: Heads) -> Heads:
        keep(keys, values)
        out = scaled_attention(rectangle(queries), rectangle(keys), rectangle(values), None)
        return out.flatten(0, 1).index_select(0, places)

    hidden = backbone.embed_tokens(tokens)
    angles = rotary(backbone, hidden, columns)
    for layer in backbone.layers[:-1]:
        with gathered(layer):
            hidden = run_layer(layer, hidden, angles, attend)
    last = backbone.layers[-1]
    with gathered(last):
        keep(*keys_values(last.self_attn, norm(last.input_layernorm, hidden), angles))
    padding = torch.arange(width, device=device) >= held[:, None]
    bias = torch.zeros(groups, width, device=device).masked_fill(padding, -torch.inf)
    return Prompts(layers, bias[:, None])
