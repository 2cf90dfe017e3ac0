"""What steps of a fixed shape read and write, at addresses that stay. Ours."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from gprl_lightning.rollout.decode_weights import DecodeWeights
from gprl_lightning.rollout.shared_decoding import Prompts


class Shape(NamedTuple):
    """What a step runs on: groups × places rows, prompts and responses of so many tokens."""

    groups: int
    places: int
    prompt: int
    held: int

    @property
    def rows(self) -> int:
        return self.groups * self.places


@dataclass(frozen=True)
class LayerCache:
    """One layer's keys and values: of the prompts, once a group, and of the responses."""

    prompt_keys: Float[Tensor, "groups kv_heads width prompt"]
    prompt_values: Float[Tensor, "groups kv_heads prompt width"]
    keys: Float[Tensor, "rows kv_heads held width"]
    values: Float[Tensor, "rows kv_heads held width"]

    def to(self, dtype: torch.dtype) -> LayerCache:
        """Return it in another dtype."""
        return LayerCache(*(getattr(self, f.name).to(dtype) for f in fields(self)))


@dataclass(frozen=True)
class Buffers:
    """All that steps read and write, of the largest shape; a smaller one takes the front of each.

    Attributes:
        layers: keys and values.
        prompt_bias: -inf on the prompts' padding.
        logits: of each row's next token.
        keys: of each row's random numbers.
        step: how many tokens have been drawn; one number, on the device.
        positions: where each row's next token stands.
        tokens, logprobs: what has been drawn.
        ended, counts: whether a row has ended, and after how many tokens.
        active: the row of the results that each row is.
    """

    layers: list[LayerCache]
    prompt_bias: Float[Tensor, "groups 1 prompt"]
    logits: Float[Tensor, "rows vocab"]
    keys: Int[Tensor, " rows"]
    step: Int[Tensor, " 1"]
    positions: Int[Tensor, " rows"]
    tokens: Int[Tensor, "rows held"]
    logprobs: Float[Tensor, "rows held"]
    ended: Bool[Tensor, " rows"]
    counts: Int[Tensor, " rows"]
    active: Int[Tensor, " rows"]

    @staticmethod
    def of(model: PreTrainedModel, weights: DecodeWeights, shape: Shape) -> Buffers:
        """Allocate buffers for steps of this shape, and of smaller ones."""
        config, backbone = cast(Any, model.config), cast(Any, model.base_model)
        device, dtype, rows = weights.head.device, weights.dtype, shape.rows
        heads, width = config.num_key_value_heads, backbone.layers[0].self_attn.head_dim

        def zeros(*sizes: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(*sizes, dtype=dtype, device=device)

        return Buffers(
            layers=[
                LayerCache(
                    zeros(shape.groups, heads, width, shape.prompt),
                    zeros(shape.groups, heads, shape.prompt, width),
                    zeros(rows, heads, shape.held, width),
                    zeros(rows, heads, shape.held, width),
                )
                for _ in weights.layers
            ],
            prompt_bias=zeros(shape.groups, 1, shape.prompt),
            logits=zeros(rows, len(weights.head)),
            keys=zeros(rows, dtype=torch.long),
            step=zeros(1, dtype=torch.long),
            positions=zeros(rows, dtype=torch.long),
            tokens=zeros(rows, shape.held, dtype=torch.long),
            logprobs=zeros(rows, shape.held, dtype=torch.float32),
            ended=zeros(rows, dtype=torch.bool),
            counts=zeros(rows, dtype=torch.long),
            active=zeros(rows, dtype=torch.long),
        )

    def fit(self, shape: Shape) -> bool:
        """Return True if a step of this shape finds room in them."""
        groups, _, prompt = self.prompt_bias.shape
        rows, held = self.tokens.shape
        room = (groups, rows, prompt, held)
        wanted = (shape.groups, shape.rows, shape.prompt, shape.held)
        return all(a >= b for a, b in zip(room, wanted, strict=True))

    def start(
        self,
        shape: Shape,
        lengths: Int[Tensor, " groups"],
        keys: Int[Tensor, " rows"],
    ) -> None:
        """Begin: no prompt is read (`put`), and nothing is drawn yet."""
        self.prompt_bias.fill_(-torch.inf)
        rows = slice(shape.rows)
        self.step.zero_()
        self.keys[rows] = keys
        self.positions[rows] = lengths.repeat_interleave(shape.places)
        self.ended.zero_()
        self.counts.zero_()
        self.active[rows] = torch.arange(shape.rows, device=keys.device)

    def put(self, first: int, prompts: Prompts) -> None:
        """Put what was read of some prompts in its place, from the ``first`` group on."""
        groups, _, width = prompts.bias.shape
        some = slice(first, first + groups)
        self.prompt_bias[some, :, :width] = prompts.bias
        for cache, layer in zip(self.layers, prompts.layers, strict=True):
            cache.prompt_keys[some, ..., :width] = layer.keys.transpose(0, 1)
            cache.prompt_values[some, :, :width] = layer.values.transpose(0, 1)

    def smaller(self, shape: Shape, parts: int) -> Shape | None:
        """Return a shape that holds all rows that have not ended, in steps of ``1 / parts`` of
        this one; None: all have. Waits for the device."""
        alive = (~self.ended[: shape.rows]).view(shape.groups, shape.places).sum(1).tolist()
        needed = [sum(count > 0 for count in alive), max(alive)]
        if not needed[0]:
            return None
        sizes = (shape.groups, shape.places)
        units = [max(1, size // parts) for size in sizes]
        groups, places = (
            min(size, -(-need // unit) * unit)
            for size, need, unit in zip(sizes, needed, units, strict=True)
        )
        worth_it = groups * places * parts <= shape.rows * (parts - 1)
        return shape._replace(groups=groups, places=places) if worth_it else shape

    def shrink(self, old: Shape, new: Shape) -> None:
        """Move the rows that have not ended to the front, with as many others as fill the grid."""
        ended = self.ended[: old.rows].view(old.groups, old.places)
        groups = ended.all(1).int().argsort(stable=True)[: new.groups]
        places = ended[groups].int().argsort(dim=1, stable=True)[:, : new.places]
        rows = (groups[:, None] * old.places + places).flatten()
        for buffer in (self.logits, self.keys, self.positions, self.tokens, self.logprobs,
                       self.ended, self.counts, self.active):  # fmt: skip
            buffer[: new.rows] = buffer[rows]
        self.prompt_bias[: new.groups] = self.prompt_bias[groups]
        for cache in self.layers:
            cache.prompt_keys[: new.groups] = cache.prompt_keys[groups]
            cache.prompt_values[: new.groups] = cache.prompt_values[groups]
            cache.keys[: new.rows] = cache.keys[rows]
            cache.values[: new.rows] = cache.values[rows]
