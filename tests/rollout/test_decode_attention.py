"""A decode step's attention against a loop in float64; an untrusted kernel is not taken.
With Triton's interpreter (`TRITON_INTERPRET=1`) the kernel itself runs on a CPU."""

from __future__ import annotations

import math

import pytest
import torch

from gprl_lightning.rollout import decode_attention
from gprl_lightning.rollout.decode_attention import attention_for, gap_limit, largest_gap, plain
from gprl_lightning.rollout.fixed_buffers import LayerCache, Shape

CPU = torch.device("cpu")


def oracle(queries, cache, lengths, shape, held, scale):
    """Each query against its prompt's keys and its own, one after the other."""
    out = torch.zeros_like(queries)
    repeats = queries.shape[1] // cache.keys.shape[1]
    for row in range(shape.rows):
        group = row // shape.places
        for head in range(queries.shape[1]):
            kv = head // repeats
            pairs = [(cache.prompt_keys[group, kv, :, t], cache.prompt_values[group, kv, t])
                     for t in range(lengths[group])]  # fmt: skip
            pairs += [(cache.keys[row, kv, t], cache.values[row, kv, t]) for t in range(held)]
            weights = [math.exp(float(queries[row, head] @ key) * scale) for key, _ in pairs]
            out[row, head] = sum(w * v for w, (_, v) in zip(weights, pairs, strict=True)) / sum(
                weights
            )
    return out.flatten(1)


def test_plain_attention_is_the_oracles():
    torch.manual_seed(0)
    shape, kv_heads, heads, width = Shape(2, 3, 7, 5), 2, 4, 8
    cache = LayerCache(*(torch.randn(*s).double() for s in (
        (2, kv_heads, width, 9), (2, kv_heads, 9, width),
        (8, kv_heads, 6, width), (8, kv_heads, 6, width),
    )))  # fmt: skip
    bias = torch.zeros(2, 1, 9).double()
    bias[0, :, 4:] = bias[1, :, 0:] = -torch.inf
    queries, step = torch.randn(6, heads, width).double(), torch.tensor([3])
    found = plain(bias, step, shape, kv_heads)(queries, cache, 0.3)
    expected = oracle(queries, cache, (4, 0), shape, 4, 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_gap_of_a_wrong_attention_is_seen():
    def shifted(*given):
        right = plain(*given)
        return lambda *asked: right(*asked) + 0.01

    assert largest_gap(plain, CPU, torch.float32, 8, 2, 16) == 0
    assert largest_gap(shifted, CPU, torch.float32, 8, 2, 16) == pytest.approx(0.01, rel=1e-3)


def test_without_a_gpu_it_is_plain_and_a_kernel_that_fails_is_said_and_not_taken(caplog):
    cache = LayerCache(*(torch.zeros(1, 2, 4, 4) for _ in range(4)))
    assert attention_for(cache, 4) is plain
    decode_attention._tried.cache_clear()
    found = decode_attention._tried(torch.device("meta"), torch.float32, 8, 2, 16)
    assert found is plain and "the kernel cannot be trusted here" in caplog.text


def test_the_kernel_in_tritons_interpreter():
    """Of half precisions the one that NumPy has, which the interpreter computes with."""
    pytest.importorskip("triton")
    from gprl_lightning.rollout import decode_kernel

    for heads, kv_heads, width in ((32, 8, 128), (9, 3, 64), (4, 4, 80)):
        for dtype in (torch.float32, torch.float16):
            gap = largest_gap(decode_kernel.attention, CPU, dtype, heads, kv_heads, width)
            assert gap <= gap_limit(dtype), (heads, kv_heads, width, dtype)
