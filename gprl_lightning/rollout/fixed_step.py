"""One decode step on buffers of a fixed shape: draw a token for each row, and feed it. Ours.

Every operator has the same shapes and addresses each time, and none waits for the device: so a step
can be captured as a CUDA graph. A layer is 24 kernels and its two norms, which are one each on a
GPU.
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
    """

    model: PreTrainedModel
    weights: DecodeWeights
    buffers: Buffers
    shape: Shape
    sampling: Sampling
    eos: Int[Tensor, " ends"]

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
        places = torch.arange(self.shape.held, device=tokens.device)
        bias = torch.zeros_like(places, dtype=hidden.dtype)
        bias = bias.masked_fill_(places > buffers.step, -torch.inf)
        groups, _, prompt, _ = self.shape
        kv_heads = buffers.layers[0].keys.shape[1]
        prompt_bias = buffers.prompt_bias[:groups, :, :prompt].repeat_interleave(kv_heads, 0)
        for layer, own, cache in zip(backbone.layers, weights.layers, buffers.layers, strict=True):
            attention = layer.self_attn
            normed = _norm(layer.input_layernorm, own.attention_norm, hidden)
            read = self._attend(attention, own, cache, normed, angles, (prompt_bias, bias))
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
        biases: tuple[Tensor, Tensor],
    ) -> Hidden:
        """Read the prompt's keys, once for the group, and the row's own, under one softmax."""
        groups, places, prompt, held = self.shape
        width, scale = attention.head_dim, attention.scaling
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
        grid = (groups, places, kv_heads, -1)
        queries = queries.reshape(*grid, width)
        of_group = queries.transpose(1, 2).reshape(groups * kv_heads, -1, width)
        prompt_keys = cache.prompt_keys[:groups, ..., :prompt].flatten(0, 1)
        of_prompt = torch.baddbmm(biases[0], of_group, prompt_keys, alpha=scale)
        own_keys = cache.keys[rows, :, :held].flatten(0, 1)
        of_own = torch.baddbmm(
            biases[1], queries.flatten(0, 2), own_keys.transpose(1, 2), alpha=scale
        )
        scores = torch.cat(
            [
                of_prompt.view(groups, kv_heads, places, -1, prompt).transpose(1, 2),
                of_own.view(*grid, held),
            ],
            -1,
        )
        # Half precision has too few digits for the sum of hundreds of exponentials.
        shares = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        shares = shares.to(scores.dtype)
        to_prompt = shares[..., :prompt].transpose(1, 2).reshape(groups * kv_heads, -1, prompt)
        read = torch.bmm(to_prompt, cache.prompt_values[:groups, :, :prompt].flatten(0, 1))
        read = read.view(groups, kv_heads, places, -1, width).transpose(1, 2)
        own_values = cache.values[rows, :, :held].flatten(0, 1)
        to_own = shares[..., prompt:].flatten(0, 2)
        read = torch.baddbmm(read.reshape(len(to_own), -1, width), to_own, own_values)
        return read.view(self.shape.rows, -1)


def _norm(module: Any, weight: Tensor, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, (hidden.shape[-1],), weight, module.variance_epsilon)
