"""The layers of the Llama family, by the Hugging Face model's own modules and without its overhead.

What runs is the model's own linears, norms and rotary embedding, so adapters, autocast and dtypes
are as they were; written here is only how they are put together. That lets the caller lay out
tokens and attention as suits: see `gprl_lightning.models.shared_prompt` and
`gprl_lightning.rollout.shared_decoding`. Other architectures take the plain path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from gprl_lightning.runtime.sharding import gathered, is_sharded

log = logging.getLogger(__name__)

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
# Of rotary embeddings, those that turn a position by the same angle however long the text is.
FIXED_ROTARY = ("default", "linear", "llama3", "yarn")

Heads = Float[Tensor, "tokens heads width"]
Rotary = tuple[Float[Tensor, "tokens 1 width"], Float[Tensor, "tokens 1 width"]]
Attend = Callable[[Heads, Heads, Heads], Heads]


def is_known(model: PreTrainedModel) -> bool:
    """Return True if `run_layer` is what this model's layers do: the family, without sliding
    windows."""
    config: Any = model.config
    if config.model_type not in FAMILY:
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = config.model_type == "mistral" and config.sliding_window is not None
    rotary = config.rope_parameters["rope_type"] in FIXED_ROTARY
    return kinds == {"full_attention"} and not window and rotary


def rotary(
    backbone: Any, hidden: Float[Tensor, "tokens width"], positions: Int[Tensor, " tokens"]
) -> Rotary:
    """Return cosines and sines of the positions, to go over all heads; in the dtype of
    ``hidden``."""
    cos, sin = backbone.rotary_emb(hidden[None], positions[None])
    return cos[0, :, None], sin[0, :, None]


def rotated(states: Heads, angles: Rotary) -> Heads:
    """Apply the rotary embedding, in the two-halves layout of the family (Su et al.,
    2104.09864)."""
    cos, sin = angles
    first, second = states.chunk(2, -1)
    return states * cos + torch.cat([-second, first], -1) * sin


def norm(module: Any, hidden: Tensor) -> Tensor:
    """Apply a norm of the family: by its own code on a CPU, elsewhere by torch's, one kernel in the
    place of six."""
    if hidden.device.type == "cpu":
        return module(hidden)
    return F.rms_norm(hidden, hidden.shape[-1:], module.weight, module.variance_epsilon)


def keys_values(
    attention: Any, normed: Float[Tensor, "tokens width"], angles: Rotary
) -> tuple[Heads, Heads]:
    """Return the rotated keys and the values of flat tokens."""
    keys = attention.k_proj(normed).unflatten(-1, (-1, attention.head_dim))
    values = attention.v_proj(normed).unflatten(-1, (-1, attention.head_dim))
    if attention.config.model_type == "qwen3":
        keys = norm(attention.k_norm, keys)
    return rotated(keys, angles), values


def run_layer(
    layer: Any,
    hidden: Float[Tensor, "tokens width"],
    angles: Rotary,
    attend: Attend,
    first_wanted: int = 0,
) -> Float[Tensor, "wanted width"]:
    """Return one decoder layer on flat tokens, whatever they belong to: ``attend`` knows.

    Args:
        layer: the Hugging Face decoder layer.
        hidden: its input.
        angles: of `rotary`, for all tokens.
        attend: from queries, keys and values to what the queries read.
        first_wanted: tokens before it are there for their keys and values; they have no output.
    """
    before, after = _compiled() if getattr(layer, "compiled", False) else (_before, _after)
    queries, keys, values = before(layer, hidden, *angles, first_wanted)
    hidden = hidden[first_wanted:] if first_wanted else hidden
    return after(layer, hidden, attend(queries, keys, values))


def _before(
    layer: Any, hidden: Float[Tensor, "tokens width"], cos: Tensor, sin: Tensor, first_wanted: int
) -> tuple[Heads, Heads, Heads]:
    """A layer up to its attention."""
    attention = layer.self_attn
    normed = norm(layer.input_layernorm, hidden)
    keys, values = keys_values(attention, normed, (cos, sin))
    if first_wanted:
        normed, cos, sin = (x[first_wanted:] for x in (normed, cos, sin))
    queries = attention.q_proj(normed).unflatten(-1, (-1, attention.head_dim))
    if attention.config.model_type == "qwen3":
        queries = norm(attention.q_norm, queries)
    return rotated(queries, (cos, sin)), keys, values


def _after(layer: Any, hidden: Float[Tensor, "wanted width"], read: Heads) -> Tensor:
    """A layer from what its attention has read."""
    hidden = hidden + layer.self_attn.o_proj(read.flatten(-2))
    return hidden + layer.mlp(norm(layer.post_attention_layernorm, hidden))


def compile_layers(model: PreTrainedModel) -> None:
    """Let `run_layer` fuse what surrounds matrix products and attention, by torch.compile: once for
    all layers and all numbers of tokens."""
    for layer in model.base_model.layers:  # pyright: ignore
        layer.compiled = True


@cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    return torch.compile(_before, dynamic=True), torch.compile(_after, dynamic=True)


def checkpointed(
    layer: Any, hidden: Tensor, angles: Rotary, attend: Attend, first_wanted: int
) -> Tensor:
    """Return `run_layer`, recomputed in the backward pass where the model is set to do so.

    A layer that is spread over processes is gathered for it, unless the caller holds the network
    `whole`.
    """
    if is_sharded(layer) and torch.is_grad_enabled():
        return layer.step(hidden, angles, attend, first_wanted)
    with gathered(layer):
        return layer_step(layer, hidden, angles, attend, first_wanted)


def layer_step(
    layer: Any, hidden: Tensor, angles: Rotary, attend: Attend, first_wanted: int
) -> Tensor:
    """Return `checkpointed` of a layer whose weights are at hand."""
    if not (layer.gradient_checkpointing and layer.training):
        return run_layer(layer, hidden, angles, attend, first_wanted)
    return checkpoint(run_layer, layer, hidden, angles, attend, first_wanted, use_reentrant=False)  # type: ignore[return-value]


def scaled_attention(
    queries: Float[Tensor, "rows new heads width"],
    keys: Float[Tensor, "rows held kv_heads width"],
    values: Float[Tensor, "rows held kv_heads width"],
    mask: Tensor | None,
) -> Float[Tensor, "rows new heads width"]:
    """Compute grouped-query attention; ``mask`` None: causal, with as many queries as keys."""
    repeats = queries.shape[2] // keys.shape[2]
    on_cpu = queries.device.type == "cpu"
    if repeats > 1 and not on_cpu:  # with a mask, CUDA's fast kernels want a key for every head
        keys, values = (x.repeat_interleave(repeats, 2) for x in (keys, values))
    out = F.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=repeats > 1 and on_cpu,
    )
    return out.transpose(1, 2)
