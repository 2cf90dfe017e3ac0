"""One decode step on buffers of a fixed shape: draw a token for each row, and feed it. Ours.

Every operator has the same shapes and addresses each time, and none waits for the device: so a step
can be captured as a CUDA graph. A layer is 24 kernels and its two norms, which are one each on a
GPU; with attention in one kernel (`decode_attention`), 14 and the norms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from gprl_lightning.models.decoder import rotary
from gprl_lightning.rollout.decode_attention import Attend, Attention, plain
from gprl_lightning.rollout.decode_weights import DecodeWeights, LayerWeights
from gprl_lightning.rollout.fixed_buffers import Buffers, LayerCache, Shape
from gprl_lightning.rollout.randomness import draw
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.rollout.sampling import sample_tokens

Hidden = Float[Tensor, "rows width"]


@dataclass(frozen=True)
class FixedStep:
    """A decode step of one shape.

    Attributes:
        model: whose rotary embedding, activation and norms' epsilon are used.
        weights: its weights, packed.
        buffers: what is read and written.
        shape: how much of the buffers.
        sampling: how tokens are drawn.
        eos: the tokens that end a response.
        attention: how a row's keys are read.
    """

    model: PreTrainedModel
    weights: DecodeWeights
    buffers: Buffers
    shape: Shape
    sampling: Sampling
    eos: Int[Tensor, " ends"]
    attention: Attention = plain

    def __call__(self) -> None:
        """Draw a token for each row, write it down, and get the next logits."""
        rows, buffers, how = slice(self.shape.rows), self.buffers, self.sampling
        tokens, logprobs = sample_tokens(
            buffers.logits[rows],
            draw(buffers.keys[rows], buffers.step),
            how.temperature,
            how.top_p,
            how.top_k,
            how.min_p,
        )
        buffers.tokens[rows].index_copy_(1, buffers.step, tokens[:, None])
        buffers.logprobs[rows].index_copy_(1, buffers.step, logprobs[:, None])
        ended = buffers.ended[rows]
        buffers.counts[rows].add_(~ended)
        ended.logical_or_(torch.isin(tokens, self.eos))
        buffers.step.add_(1)
        self.feed(tokens)

    def feed(self, tokens: Int[Tensor, " rows"]) -> None:
        """Run the layers on one token of each row, the ``buffers.step``-th of what it holds."""
        rows, buffers, weights = slice(self.shape.rows), self.buffers, self.weights
        backbone = cast(Any, self.model.base_model)
        hidden = F.embedding(tokens, weights.embedding)
        cos, sin = rotary(backbone, hidden, buffers.positions[rows])
        first, second = sin.chunk(2, -1)
        angles = cos, torch.cat([-first, second], -1)
        kv_heads = buffers.layers[0].keys.shape[1]
        attend = self.attention(buffers.prompt_bias, buffers.step, self.shape, kv_heads)
        for layer, own, cache in zip(backbone.layers, weights.layers, buffers.layers, strict=True):
            attention = layer.self_attn
            normed = _norm(layer.input_layernorm, own.attention_norm, hidden)
            read = self._attend(attention, own, cache, normed, angles, attend)
            hidden = hidden + F.linear(read, own.output, own.output_bias)
            normed = _norm(layer.post_attention_layernorm, own.mlp_norm, hidden)
            gate, up = F.linear(normed, own.gate_up, own.gate_up_bias).chunk(2, -1)
            hidden = hidden + F.linear(layer.mlp.act_fn(gate) * up, own.down, own.down_bias)
        hidden = _norm(backbone.norm, weights.norm, hidden)
        buffers.logits[rows].copy_(F.linear(hidden, weights.head, weights.head_bias))
        buffers.positions[rows].add_(1)

    def _attend(
        self,
        attention: Any,
        own: LayerWeights,
        cache: LayerCache,
        normed: Hidden,
        angles: tuple[Tensor, Tensor],
        attend: Attend,
    ) -> Hidden:
        """Write the token's key and value down, and read all that are there."""
        width = attention.head_dim
        kv_heads = cache.keys.shape[1]
        flat = F.linear(normed, own.qkv, own.qkv_bias).unflatten(-1, (-1, width))
        asking, values = flat[:, :-kv_heads], flat[:, -kv_heads:]
        if own.query_norm is not None and own.key_norm is not None:
            queries = _norm(attention.q_norm, own.query_norm, asking[:, :-kv_heads])
            keys = _norm(attention.k_norm, own.key_norm, asking[:, -kv_heads:])
            asking = torch.cat([queries, keys], 1)
        cos, sin = angles
        asking = torch.addcmul(asking * cos, asking.roll(width // 2, -1), sin)
        queries, keys = asking[:, :-kv_heads], asking[:, -kv_heads:]
        rows = slice(self.shape.rows)
        cache.keys[rows].index_copy_(2, self.buffers.step, keys[:, :, None])
        cache.values[rows].index_copy_(2, self.buffers.step, values[:, :, None])
        return attend(queries, cache, attention.scaling)


def _norm(module: Any, weight: Tensor, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, (hidden.shape[-1],), weight, module.variance_epsilon)
