"""The policy's weights as a decode step reads them: packed, in one dtype, adapters merged. Ours.

A step of decoding reads every weight once, and little else. So the projections of one input lie in
one matrix, adapters are added to the weights that they adapt, and nothing is cast on the way. It
is a copy, of `refresh`'s making before each rollout: the policy itself is never touched, so that
nothing has to be taken out again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from gprl_lightning.models.quantized import merged_weight, plain_weight


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer of the Llama family; a bias or a norm that it lacks is None.

    Attributes:
        attention_norm, mlp_norm: of the hidden states before attention and before the MLP.
        qkv, qkv_bias: the three projections, queries first.
        query_norm, key_norm: of each head, in Qwen3.
        output, output_bias: the attention's.
        gate_up, gate_up_bias, down, down_bias: the MLP's.
    """

    attention_norm: Tensor
    qkv: Float[Tensor, "heads_width hidden"]
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None

    def copy_(self, other: LayerWeights) -> None:
        """Take the values of ``other``, at the same addresses as before."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            _take(mine, theirs)


class DecodeWeights:
    """All weights of a model of which `gprl_lightning.models.decoder.is_known` is true.

    What needs no copy (norms, embedding, a matrix by itself) is the model's own tensor.

    Args:
        model: the causal LM, with or without adapters; `refresh` takes no other.
        dtype: what a step computes in.
        room: those of a model of the same shape, whose copies are written over.
    """

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype, room: DecodeWeights | None = None
    ) -> None:
        self.dtype = dtype
        self.own = {parameter.data_ptr() for parameter in model.parameters()}
        rooms = room.layers if room else [None] * len(_backbone(model).layers)
        self.layers = [
            self._placed(_read_layer(layer, dtype), place, room)
            for layer, place in zip(_backbone(model).layers, rooms, strict=True)
        ]
        ends = self._ends(model)
        if room is not None:
            ends = [self._in(room, new, old) for new, old in zip(ends, room.ends, strict=True)]
        self.norm, self.embedding, self.head, self.head_bias = self.ends = ends

    def _placed(
        self, read: LayerWeights, place: LayerWeights | None, room: DecodeWeights | None
    ) -> LayerWeights:
        """Put a layer that was read into that of ``room``, if there is one."""
        if place is None or room is None:
            return read
        names = [field.name for field in fields(read)]
        return LayerWeights(*(self._in(room, getattr(read, n), getattr(place, n)) for n in names))

    def _in(self, room: DecodeWeights, new: Any, old: Any) -> Any:
        """Put what is a copy into a copy of ``room``; a model's own tensors stay where they are, on
        both sides."""
        return old.copy_(new) if self._is_copy(new) and room._is_copy(old) else new

    def _is_copy(self, tensor: Tensor | None) -> bool:
        return tensor is not None and tensor.data_ptr() not in self.own

    def refresh(self, model: PreTrainedModel) -> None:
        """Read the model's weights again, in place: a captured step holds the addresses."""
        for mine, layer in zip(self.layers, _backbone(model).layers, strict=True):
            mine.copy_(_read_layer(layer, self.dtype))
        for mine, theirs in zip(self.ends, self._ends(model), strict=True):
            _take(mine, theirs)

    def _ends(self, model: PreTrainedModel) -> list[Any]:
        head: Any = model.get_output_embeddings()
        embedding: Any = model.get_input_embeddings()
        bias = getattr(head, "bias", None)
        return [
            _backbone(model).norm.weight.detach().to(self.dtype),
            embedding.weight.detach().to(self.dtype),
            _weight(head, self.dtype),
            None if bias is None else bias.detach().to(self.dtype),
        ]

    @property
    def bytes(self) -> int:
        """What one step reads of it: all but the embedding, of which it takes a row each."""
        layers = [getattr(layer, f.name) for layer in self.layers for f in fields(layer)]
        read = [*layers, self.norm, self.head, self.head_bias]
        return sum(x.nbytes for x in read if x is not None)


def _backbone(model: PreTrainedModel) -> Any:
    return model.base_model


def _read_layer(layer: Any, dtype: torch.dtype) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    qkv, qkv_bias = _packed([attention.q_proj, attention.k_proj, attention.v_proj], dtype)
    output, output_bias = _packed([attention.o_proj], dtype)
    gate_up, gate_up_bias = _packed([mlp.gate_proj, mlp.up_proj], dtype)
    down, down_bias = _packed([mlp.down_proj], dtype)
    head_norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    query_norm, key_norm = (None if n is None else n.weight.detach().to(dtype) for n in head_norms)
    return LayerWeights(
        attention_norm=layer.input_layernorm.weight.detach().to(dtype),
        qkv=qkv,
        qkv_bias=qkv_bias,
        query_norm=query_norm,
        key_norm=key_norm,
        output=output,
        output_bias=output_bias,
        mlp_norm=layer.post_attention_layernorm.weight.detach().to(dtype),
        gate_up=gate_up,
        gate_up_bias=gate_up_bias,
        down=down,
        down_bias=down_bias,
    )


def _packed(linears: list[Any], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    weights = [_weight(linear, dtype) for linear in linears]
    biases = [linear.bias.detach().to(dtype) for linear in linears if linear.bias is not None]
    return _joined(weights), _joined(biases) if biases else None


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _take(mine: Tensor | None, theirs: Tensor | None) -> None:
    """Copy, unless both are the policy's own tensor."""
    if mine is not None and theirs is not None and mine.data_ptr() != theirs.data_ptr():
        mine.copy_(theirs)


def _weight(linear: Any, dtype: torch.dtype) -> Tensor:
    """The weight with what its adapters add, summed in float32 or wider and rounded once.

    One that adapters may change is never the policy's own tensor, also while they are off: what is
    merged later must not be written into the base.
    """
    adapted = hasattr(linear, "base_layer")
    return (merged_weight(linear) if adapted else plain_weight(linear)).to(dtype)
