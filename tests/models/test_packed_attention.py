"""Sequences end to end: the twin against an oracle, the layout against rectangles, and what is
taken for a kernel. The kernel itself is tried on a GPU, before it is used."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.attention import varlen

from gprl_lightning.core.host_tokens import HostTokens
from gprl_lightning.models import packed_attention, shared_prompt
from gprl_lightning.models.packed_attention import Bounds, gap_limit, kernel, largest_gap, plain
from tests.tiny import tiny_model

CPU = torch.device("cpu")
SHAPE = CPU, torch.bfloat16, 4, 2, 8  # four query heads, two of keys, eight wide
LENGTHS = [4, 0, 7], [9, 3, 7]


def by_definition(queries, keys, values, counts, held):
    """softmax(q k / √width) v over all that stands before, number by number."""
    out, q0, k0 = torch.zeros(queries.shape).double(), 0, 0
    group = queries.shape[1] // keys.shape[1]
    for many, there in zip(counts, held, strict=True):
        for i in range(many):
            for head in range(queries.shape[1]):
                seen = range(k0, k0 + there - many + i + 1)
                q = queries[q0 + i, head].double()
                scores = [
                    float(q @ keys[j, head // group].double()) / math.sqrt(len(q)) for j in seen
                ]
                shares = [math.exp(s - max(scores)) for s in scores]
                for share, j in zip(shares, seen, strict=True):
                    out[q0 + i, head] += share / sum(shares) * values[j, head // group].double()
        q0, k0 = q0 + many, k0 + there
    return out


def test_the_twin_is_attention_by_its_definition():
    queries, keys, values = (torch.randn(n, h, 8) for n, h in ((11, 4), (19, 2), (19, 2)))
    bounds = Bounds.of(*map(torch.tensor, LENGTHS), CPU)
    assert bounds.query_ends.tolist() == [0, 4, 4, 11] and bounds.key_ends.dtype == torch.int32
    found = plain(queries, keys, values, bounds)
    expected = by_definition(queries, keys, values, *LENGTHS)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


PROMPTS = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5], [0, 0, 0, 0, 9]])
WHICH = [0, 0, 1, 2, 1]
RESPONSES = [3, 5, 0, 2, 4]


def states(model: Any) -> list[torch.Tensor]:
    """Hidden states of responses to three prompts, one of a single token, and all gradients."""
    prompts = PROMPTS[WHICH]
    known = HostTokens(prompts, prompts > 0, torch.tensor(RESPONSES))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 30, (len(WHICH), max(RESPONSES)), generator=generator)
    found = shared_prompt.shared_prompt_states(model, known, ids)
    weights = torch.randn(found.shape, generator=generator)
    given = [p for p in model.base_model.parameters()]
    return [found, *torch.autograd.grad((found * weights).sum(), given)]


@pytest.mark.parametrize("arch", ["llama", "qwen3"])
def test_a_layout_without_padding_is_the_one_of_rectangles(arch, monkeypatch):
    model, calls = tiny_model(arch).double(), []
    expected = states(model)

    def counted(queries, keys, values, bounds):
        calls.append(bounds)
        return plain(queries, keys, values, bounds)

    monkeypatch.setattr(shared_prompt, "packed_attention", lambda *_: counted)
    found = states(model)
    layers = model.config.num_hidden_layers
    assert len(calls) == 2 * layers - 1, "of prefixes and of rows, but in the last layer"
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=1e-8)


def test_a_kernel_that_is_right_is_near_and_a_wrong_one_is_not():

    def shifted(queries, keys, values, bounds):
        return plain(queries, keys.roll(1, 0), values, bounds)

    def no_gradient(queries, keys, values, bounds):
        return plain(queries, keys.detach() + 0 * keys, values, bounds)

    assert largest_gap(plain, *SHAPE) <= gap_limit(torch.bfloat16)
    for wrong in (shifted, no_gradient):
        assert largest_gap(wrong, *SHAPE) > gap_limit(torch.bfloat16)


def of_bounds(queries, keys, values, query_ends, key_ends, longest_query, longest_key):
    """What PyTorch's kernel is told, from its bounds alone."""
    counts, held = query_ends.diff().long(), key_ends.diff().long()
    assert (longest_query, longest_key) == (int(counts.max()), int(held.max()))
    return plain(queries, keys, values, Bounds(counts, held, query_ends, key_ends))


def with_groups(*tensors, window_size, enable_gqa=False):
    assert window_size == (-1, 0) and enable_gqa
    return of_bounds(*tensors)


def without_groups(*tensors, window_size):
    assert window_size == (-1, 0) and tensors[0].shape[1] == tensors[1].shape[1]
    return of_bounds(*tensors)


@pytest.mark.parametrize("known", [with_groups, without_groups])
def test_pytorchs_kernel_is_told_bounds_window_and_heads(known, monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", known)
    assert largest_gap(kernel(), *SHAPE) <= gap_limit(torch.bfloat16)


def no_window(query, key, value, is_causal=False):
    raise AssertionError


@pytest.mark.parametrize(
    ("known", "why"),
    [(no_window, "takes no window_size"), (varlen.varlen_attn, "CUDA"), (None, "off by")],
)
def test_what_is_not_right_here_is_not_taken_and_a_line_says_why(known, why, monkeypatch, caplog):
    def wrong(*tensors, window_size):
        return 2 * without_groups(*tensors, window_size=window_size)

    monkeypatch.setattr(varlen, "varlen_attn", known or wrong)
    packed_attention._tried.cache_clear()
    assert packed_attention._tried(*SHAPE) is None
    assert why in caplog.text and caplog.text.count("Forward passes pad") == 1
    packed_attention._tried.cache_clear()


def test_a_cpu_takes_rectangles():
    assert packed_attention.packed_attention(torch.zeros(3, 2, 8), 4) is None
