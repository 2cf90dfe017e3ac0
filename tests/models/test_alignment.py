"""Loaded weights begin where a cache line does, and are otherwise what was saved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gprl_lightning.config import PolicyConfig
from gprl_lightning.models.alignment import CACHE_LINE, align_weights
from gprl_lightning.models.policy import load_policy, save_policy
from tests.tiny import tiny_policy


def crooked() -> nn.Module:
    """Two names for one weight that begins in the middle of a cache line."""
    module = nn.Module()
    module.weight = nn.Parameter(torch.arange(40.0)[3:])
    module.tied = module.weight
    return module


def test_weights_are_moved_and_keep_their_values_and_ties():
    module = crooked()
    assert module.weight.data_ptr() % CACHE_LINE == 12
    align_weights(module)
    assert module.weight.data_ptr() % CACHE_LINE == 0
    assert torch.equal(module.weight, torch.arange(40.0)[3:])
    assert module.tied is module.weight


def test_where_there_is_a_gpu_they_stay(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    module = crooked()
    align_weights(module)
    assert module.weight.data_ptr() % CACHE_LINE == 12


@pytest.mark.skipif(torch.cuda.is_available(), reason="weights are left where they are")
def test_a_loaded_policy_is_aligned(tmp_path):
    saved = tiny_policy("llama")
    save_policy(saved, tmp_path)
    loaded = load_policy(PolicyConfig(), tmp_path, 1.0)
    assert {p.data_ptr() % CACHE_LINE for p in loaded.parameters()} == {0}
    torch.testing.assert_close(loaded.state_dict(), saved.state_dict(), rtol=0, atol=0)
