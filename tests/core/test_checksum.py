"""A checksum of weights changes with any bit of them, and with nothing else."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.core.checksum import checksum

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_entry_counts_in_any_dtype(dtype):
    tensor = torch.arange(24).reshape(4, 6).to(dtype)
    before = checksum([("weight", tensor)])
    for entry in (0, 11, 23):
        changed = tensor.clone()
        changed.flatten()[entry] += 1
        assert checksum([("weight", changed)]) != before
    assert checksum([("weight", tensor.clone())]) == before


def test_the_last_bit_counts_and_so_do_names_and_shapes():
    tensor = torch.full((2, 3), 0.1)
    nudged = tensor.clone()
    nudged[1, 2] = torch.nextafter(nudged[1, 2], torch.tensor(1.0))
    variants = [
        [("a", tensor)],
        [("a", nudged)],
        [("b", tensor)],
        [("a", tensor.reshape(3, 2))],
        [("a", tensor), ("b", tensor)],
        [("a", tensor.bfloat16())],
    ]
    assert len({checksum(v) for v in variants}) == len(variants)


def test_layout_does_not_count():
    tensor = torch.randn(4, 6)
    assert checksum([("a", tensor.T.contiguous().T)]) == checksum([("a", tensor)])
    assert checksum([]) == checksum([])
