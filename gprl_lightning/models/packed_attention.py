"""Attention of sequences that lie end to end, without padding and without a mask. Ours.

PyTorch's `varlen_attn` reads them by their bounds, in one flash kernel: queries are the last of
their sequence, and see all before them and themselves. It needs a GPU and half precision, and is
taken once it has been seen to give, on this device, what PyTorch's plain operators give.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache as remembered
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from gprl_lightning.core.transfers import sent_together

log = logging.getLogger(__name__)

HALF = (torch.bfloat16, torch.float16)
CAUSAL = (-1, 0)  # as a window: all to the left, none to the right
TRIED_LENGTHS = [3, 70, 129], [40, 70, 200]  # of queries and keys, on which the kernel is tried

Queries = Float[Tensor, "queries heads width"]
Keys = Float[Tensor, "keys kv_heads width"]


@dataclass(frozen=True)
class Bounds:
    """Where each sequence begins and ends.

    Attributes:
        queries, keys: of each sequence, on the host: a query count may be 0.
        query_ends, key_ends: 0 and the running sums, on the device.
    """

    queries: Int[Tensor, " sequences"]
    keys: Int[Tensor, " sequences"]
    query_ends: Int[Tensor, " ends"]
    key_ends: Int[Tensor, " ends"]

    @staticmethod
    def of(
        queries: Int[Tensor, " sequences"], keys: Int[Tensor, " sequences"], device: torch.device
    ) -> Bounds:
        """Send the bounds of sequences of these lengths, which the host knows."""
        ends = sent_together([F.pad(n.cumsum(0), (1, 0)) for n in (queries, keys)], device)
        return Bounds(queries, keys, *(end.int() for end in ends))


Packed = Callable[[Tensor, Tensor, Tensor, Bounds], Tensor]


def plain(queries: Queries, keys: Keys, values: Keys, bounds: Bounds) -> Queries:
    """Return the same by PyTorch's operators, one sequence after another."""
    counts, held = bounds.queries.tolist(), bounds.keys.tolist()
    parts = zip(queries.split(counts), keys.split(held), values.split(held), strict=True)
    return torch.cat([_one(*part) for part in parts])


def _one(queries: Queries, keys: Keys, values: Keys) -> Queries:
    before = len(keys) - len(queries)
    seen = torch.ones(len(queries), len(keys), dtype=torch.bool, device=keys.device).tril(before)
    heads_first = (x.transpose(0, 1) for x in (queries, keys, values))
    out = F.scaled_dot_product_attention(*heads_first, attn_mask=seen, enable_gqa=True)
    return out.transpose(0, 1)


def packed_attention(values: Keys, heads: int) -> Packed | None:
    """Return the kernel where it is known to be right for such values and so many query heads,
    else None."""
    there = values.is_cuda and torch.cuda.is_available() and torch.version.hip is None
    if not there or values.dtype not in HALF:
        return None
    return _tried(values.device, values.dtype, heads, values.shape[1], values.shape[2])


def kernel() -> Packed:
    """Return PyTorch's kernel as a `Packed`.

    Raises:
        ImportError: this PyTorch has none, or one that knows no window.
    """
    from torch.nn.attention.varlen import varlen_attn

    options = inspect.signature(varlen_attn).parameters
    if "window_size" not in options:
        raise ImportError("varlen_attn of this PyTorch takes no window_size")
    return partial(_by_kernel, varlen_attn, "enable_gqa" in options)


def _by_kernel(
    varlen: Callable[..., Any],
    groups_heads: bool,
    queries: Queries,
    keys: Keys,
    values: Keys,
    bounds: Bounds,
) -> Queries:
    options = {"enable_gqa": True} if groups_heads else {}
    if not groups_heads:
        repeats = queries.shape[1] // keys.shape[1]
        keys, values = (x.repeat_interleave(repeats, 1) for x in (keys, values))
    longest = int(bounds.queries.max()), int(bounds.keys.max())
    return varlen(
        queries, keys, values, bounds.query_ends, bounds.key_ends, *longest,
        window_size=CAUSAL, **options,
    )  # fmt: skip


@remembered
def _tried(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int
) -> Packed | None:
    """Return the kernel if it gives what `plain` does, gradients included, on random numbers."""
    try:
        found = kernel()
        gap = largest_gap(found, device, dtype, heads, kv_heads, width)
    except Exception as error:  # of a kernel, on a device that nobody here has seen
        why = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        if gap <= gap_limit(dtype):
            return found
        why = f"it is off by {gap:.1g}"
    log.warning("Forward passes pad for attention, slower and equal: no flash kernel (%s).", why)
    return None


def gap_limit(dtype: torch.dtype) -> float:
    """Return how far a right kernel may be off, as a share of the largest value.

    >>> gap_limit(torch.bfloat16)
    0.03125
    """
    return 4 * torch.finfo(dtype).eps


@torch.enable_grad()
def largest_gap(
    attention: Packed,
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    width: int,
) -> float:
    """Return the largest difference from `plain` in float32, of what is read and of the gradients,
    each as a share of its largest value."""
    generator = torch.Generator(device).manual_seed(0)
    counts, held = map(torch.tensor, TRIED_LENGTHS)
    bounds = Bounds.of(counts, held, device)

    def random(tokens: Tensor, heads: int) -> Tensor:
        shape = int(tokens.sum()), heads, width
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    rounded = [random(counts, heads), random(held, kv_heads), random(held, kv_heads)]
    slope = random(counts, heads)

    def results(attention: Packed, dtype: torch.dtype) -> list[Tensor]:
        queries, keys, values = given = [x.detach().to(dtype).requires_grad_() for x in rounded]
        with torch.autocast(device.type, enabled=False):
            read = attention(queries, keys, values, bounds)
            return [read, *torch.autograd.grad(read, given, slope.to(dtype))]

    gaps = [
        (found.float() - right).abs().max() / right.abs().max()
        for found, right in zip(
            results(attention, dtype), results(plain, torch.float32), strict=True
        )
    ]
    return float(torch.stack(gaps).max())
