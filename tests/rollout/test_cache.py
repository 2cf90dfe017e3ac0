"""The buffered cache holds what Hugging Face's own does, after growing, repeating, dropping."""

from __future__ import annotations

import torch
from transformers import AutoConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from gprl_lightning.rollout.cache import ROOM, BufferedLayer, make_cache
from tests.tiny import tiny_config


def states(rows: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, 2, tokens, 4)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def test_same_as_the_dynamic_layer():
    ours, theirs = BufferedLayer(), DynamicLayer()

    def update(rows: int, tokens: int, seed: int) -> None:
        new = states(rows, tokens, seed)
        for mine, other in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(mine, other)
        assert ours.get_mask_sizes(1) == theirs.get_mask_sizes(1)

    update(3, 5, 0)
    for layer in (ours, theirs):
        layer.batch_repeat_interleave(4)
    for step in range(2 * ROOM + 3):  # beyond the room of two buffers
        update(12, 1, step)
    kept = torch.tensor([0, 2, 3, 7, 11])
    for layer in (ours, theirs):
        layer.batch_select_indices(kept)
    for step in range(ROOM + 3):
        update(5, 1, step)
    for layer in (ours, theirs):
        layer.batch_select_indices(torch.tensor([4]))
    update(1, 2, 9)


def test_dropping_rows_before_any_growth():
    ours, theirs = BufferedLayer(), DynamicLayer()
    for layer in (ours, theirs):
        layer.update(*states(4, 3, 0))
        layer.batch_select_indices(torch.tensor([1, 3]))
    new = states(2, 1, 1)
    assert torch.equal(ours.update(*new)[0], theirs.update(*new)[0])


def test_recurrent_architectures_keep_their_own_cache():
    assert type(make_cache(tiny_config("gemma2")).layers[0]) is BufferedLayer
    kinds = ["linear_attention", "full_attention"]
    mixed = AutoConfig.for_model("qwen3_next", num_hidden_layers=2, layer_types=kinds)
    assert isinstance(make_cache(mixed), DynamicCache)
