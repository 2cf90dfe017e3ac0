"""The attention of a decode step in one Triton kernel, for a GPU. Ours.

One program per row and key head: the queries that share the head meet the row's own keys, as many
as it has, and then its prompt's, under one running softmax (Dao et al., 2205.14135). A prompt's
keys are read by all rows of its group at about the same time, so from the cache.
"""

# pyright: reportUnknownMemberType=false, reportMissingImports=false
from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from gprl_lightning.rollout.decode_attention import Attend
from gprl_lightning.rollout.fixed_buffers import LayerCache, Shape

BLOCK = 64  # keys at a time
LEAST_QUERIES = 16  # of a matrix product


@triton.jit
def _meet(queries, keys, values, bias, peak, total, read, scale):  # type: ignore[no-untyped-def]
    """Take one more block of keys into the running softmax."""
    scores = tl.dot(queries, keys, input_precision="ieee") * scale + bias[None, :]
    new = tl.maximum(peak, tl.max(scores, 1))
    shares = tl.exp(scores - new[:, None])
    shrink = tl.exp(peak - new)
    read = read * shrink[:, None] + tl.dot(shares.to(values.dtype), values, input_precision="ieee")
    return new, total * shrink + tl.sum(shares, 1), read


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    queries_at, prompt_keys, prompt_values, prompt_bias, own_keys, own_values, step, out,
    query_row, pk_group, pk_head, pk_width, pv_group, pv_head, bias_group, own_row, own_head,
    places, prompt, held, scale,
    REPEATS: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, ROOM: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    group = row // places
    query, width, token = tl.arange(0, QUERIES), tl.arange(0, ROOM), tl.arange(0, BLOCK)
    wide, real = width < WIDTH, query < REPEATS
    place = (head * REPEATS + query[:, None]) * WIDTH + width[None, :]
    kept = real[:, None] & wide[None, :]
    queries = tl.load(queries_at + row * query_row + place, mask=kept, other=0.0)
    peak = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    read = tl.zeros([QUERIES, ROOM], tl.float32)
    # Its own first: there is one at least, so that the peak is finite from then on.
    drawn = tl.load(step)
    own = row * own_row + head * own_head
    for first in range(0, held, BLOCK):
        at = first + token
        there = at <= drawn
        keys = tl.load(own_keys + own + at[None, :] * WIDTH + width[:, None],
                       mask=there[None, :] & wide[:, None], other=0.0)  # fmt: skip
        values = tl.load(own_values + own + at[:, None] * WIDTH + width[None, :],
                         mask=there[:, None] & wide[None, :], other=0.0)  # fmt: skip
        bias = tl.where(there, 0.0, float("-inf"))
        peak, total, read = _meet(queries, keys, values, bias, peak, total, read, scale)
    keys_before = group * pk_group + head * pk_head
    values_before = group * pv_group + head * pv_head
    for first in range(0, prompt, BLOCK):
        at = first + token
        there = at < prompt
        bias = tl.load(prompt_bias + group * bias_group + at, mask=there, other=float("-inf"))
        keys = tl.load(
            prompt_keys + keys_before + width[:, None] * pk_width + at[None, :],
            mask=there[None, :] & wide[:, None], other=0.0,
        )  # fmt: skip
        values = tl.load(
            prompt_values + values_before + at[:, None] * WIDTH + width[None, :],
            mask=there[:, None] & wide[None, :], other=0.0,
        )  # fmt: skip
        peak, total, read = _meet(
            queries, keys, values, bias.to(tl.float32), peak, total, read, scale
        )
    answer = (read / total[:, None]).to(out.dtype.element_ty)
    heads = tl.num_programs(1)
    tl.store(out + row * (heads * REPEATS * WIDTH) + place, answer, mask=kept)


def attention(prompt_bias: Tensor, step: Tensor, shape: Shape, kv_heads: int) -> Attend:
    """Return what `decode_attention.plain` does, to rounding."""

    def attend(queries: Tensor, cache: LayerCache, scale: float) -> Tensor:
        rows, heads, width = queries.shape
        repeats = heads // kv_heads
        # A slice of what is longer, of which each token lies in one piece.
        together = queries.stride()[1:] == (width, 1)
        queries = queries if together else queries.contiguous()
        out = queries.new_empty(rows, heads * width)
        own, keys, values = cache.keys, cache.prompt_keys, cache.prompt_values
        launch: Any = _attend
        launch[(rows, kv_heads)](
            queries, keys, values, prompt_bias, own, cache.values, step, out,
            queries.stride(0), keys.stride(0), keys.stride(1), keys.stride(2), values.stride(0),
            values.stride(1), prompt_bias.stride(0), own.stride(0), own.stride(1),
            shape.places, shape.prompt, shape.held, scale,
            REPEATS=repeats, WIDTH=width,
            QUERIES=max(LEAST_QUERIES, triton.next_power_of_2(repeats)),
            ROOM=max(16, triton.next_power_of_2(width)), BLOCK=BLOCK,
        )  # fmt: skip
        return out

    return attend
