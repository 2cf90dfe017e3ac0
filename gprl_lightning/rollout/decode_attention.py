"""The attention of a decode step: a prompt's keys, which its group shares, and the row's own. Ours.

In plain PyTorch; on a GPU with Triton by one kernel (`rollout/decode_kernel.py`), once
that has been seen to give the same on this device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache as remembered
from functools import partial
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gprl_lightning.rollout.fixed_buffers import LayerCache, Shape

log = logging.getLogger(__name__)

# From queries [rows, heads, width], a layer's keys and values and the scale of the scores to what
# the queries read, [rows, heads · width]; made anew for each step.
Attend = Callable[[Tensor, LayerCache, float], Tensor]
# A bias of -inf on the prompts' padding, how many tokens have been drawn, the shape, key heads.
Attention = Callable[[Tensor, Tensor, Shape, int], Attend]
TRIED = Shape(groups=2, places=3, prompt=128, held=128)  # on which a kernel is held against `plain`


def plain(
    prompt_bias: Float[Tensor, "groups 1 prompt"],
    step: Int[Tensor, " 1"],
    shape: Shape,
    kv_heads: int,
) -> Attend:
    """Return `attend` with what is alike in all layers: which keys there are."""
    places = torch.arange(shape.held, device=step.device)
    own = torch.zeros_like(places, dtype=prompt_bias.dtype)
    own = own.masked_fill_(places > step, -torch.inf)
    prompt = prompt_bias[: shape.groups, :, : shape.prompt].repeat_interleave(kv_heads, 0)
    return partial(attend, shape, (prompt, own))


def attend(
    shape: Shape,
    biases: tuple[Tensor, Tensor],
    queries: Float[Tensor, "rows heads width"],
    cache: LayerCache,
    scale: float,
) -> Float[Tensor, "rows heads_width"]:
    """Read the prompt's keys, once for the group, and the row's own, under one softmax."""
    groups, places, prompt, held = shape
    width, kv_heads = queries.shape[-1], cache.keys.shape[1]
    rows, grid = slice(shape.rows), (groups, places, kv_heads, -1)
    queries = queries.reshape(*grid, width)
    of_group = queries.transpose(1, 2).reshape(groups * kv_heads, -1, width)
    prompt_keys = cache.prompt_keys[:groups, ..., :prompt].flatten(0, 1)
    of_prompt = torch.baddbmm(biases[0], of_group, prompt_keys, alpha=scale)
    own_keys = cache.keys[rows, :, :held].flatten(0, 1)
    of_own = torch.baddbmm(biases[1], queries.flatten(0, 2), own_keys.transpose(1, 2), alpha=scale)
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
    return read.view(shape.rows, -1)


def attention_for(cache: LayerCache, heads: int) -> Attention:
    """Return the kernel where it is known to be right for so many query heads, else `plain`."""
    keys = cache.keys
    if not (keys.is_cuda and torch.cuda.is_available() and find_spec("triton")):
        return plain
    return _tried(keys.device, keys.dtype, heads, keys.shape[1], keys.shape[-1])


@remembered
def _tried(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int
) -> Attention:
    """Return the kernel if it gives what `plain` does, on random numbers."""
    try:
        from gprl_lightning.rollout import decode_kernel

        gap = largest_gap(decode_kernel.attention, device, dtype, heads, kv_heads, width)
    except Exception as error:  # of a compiler, for a device that nobody here has seen
        gap, why = torch.inf, f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        why = f"it is off by {gap:.1g}"
        if gap <= gap_limit(dtype):
            return decode_kernel.attention
    log.warning(
        "Decoding takes plain attention, slower and equal: the kernel cannot be trusted here (%s).",
        why,
    )
    return plain


def gap_limit(dtype: torch.dtype) -> float:
    """Return how far a right kernel may be off, by the rounding of queries, keys and shares.

    >>> gap_limit(torch.bfloat16), gap_limit(torch.float32)
    (0.03125, 1e-05)
    """
    return max(4 * torch.finfo(dtype).eps, 1e-5)


def largest_gap(
    attention: Attention,
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    width: int,
) -> float:
    """Return the largest difference from `plain` in float32, on random numbers of this shape."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, device=device).to(dtype)

    shape = TRIED
    cache = LayerCache(
        random(shape.groups, kv_heads, width, shape.prompt),
        random(shape.groups, kv_heads, shape.prompt, width),
        random(shape.rows, kv_heads, shape.held, width),
        random(shape.rows, kv_heads, shape.held, width),
    )
    bias = torch.zeros(shape.groups, 1, shape.prompt, dtype=dtype, device=device)
    bias[0, :, 70:] = bias[1] = -torch.inf  # one prompt of 70 tokens, and one of none
    step = torch.full((1,), 90, device=device)
    queries = random(shape.rows, heads + kv_heads, width)[:, :heads]
    found = attention(bias, step, shape, kv_heads)(queries, cache, width**-0.5)
    wide = plain(bias.float(), step, shape, kv_heads)
    expected = wide(queries.float(), cache.to(torch.float32), width**-0.5)
    return float((found.float() - expected).abs().max())
