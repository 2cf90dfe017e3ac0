"""Layers whose small operators are fused: the same numbers, one compilation for all of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch._dynamo as dynamo

from gprl_lightning.config.models import LoraConfig, PolicyConfig
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.policy import Policy, load_policy
from tests.models.test_shared_prompt import batch
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.long


def results(policy: Policy) -> list[torch.Tensor]:
    """Log-probabilities with and without gradients, and the gradients."""
    given = batch(policy)
    with torch.no_grad():
        first, _ = policy(*given)
    logprobs, _ = policy(*given)
    trained = [p for p in policy.parameters() if p.requires_grad]
    return [first, logprobs, *torch.autograd.grad(logprobs.sum(), trained)]


def saved(folder: Any, arch: Any, layers: int = 5) -> Any:
    tiny_model(arch, layers=layers).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"lora": LoraConfig(r=4)}, marks=pytest.mark.slow)]
)
def test_the_numbers_are_the_same_and_one_compilation_serves_all_layers(options, tmp_path):
    folder = saved(tmp_path, "llama")
    plain, fused = (
        load_policy(PolicyConfig(compile=compiled, **options), folder, 0.8)
        for compiled in (False, True)
    )
    dynamo.reset()
    dynamo.utils.counters.clear()
    fused.load_state_dict(copy.deepcopy(plain.state_dict()))
    for mine, theirs in zip(results(fused), results(plain), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=2e-4)
    # Two parts of a layer; with gradients and without; the last layer wants fewer tokens.
    assert 4 <= dynamo.utils.counters["stats"]["unique_graphs"] <= 8


def test_layers_that_are_not_known_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"policy\.compile=true: expected layers that are known"):
        load_policy(PolicyConfig(compile=True), saved(tmp_path, "gpt2"), 1.0)
