"""An adapted layer's lean forward pass: peft's result and gradients, fewer and smaller steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gprl_lightning.config.models import LoraConfig
from gprl_lightning.models.adapted_linear import adapted
from gprl_lightning.models.lora import with_lora
from tests.tiny import tiny_model

peft = pytest.importorskip("peft")


def layers(model: Any) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]


def model_of(dtype: torch.dtype, alpha: int = 12) -> Any:
    torch.manual_seed(0)
    options = LoraConfig(r=4, alpha=alpha, target_modules="all-linear")
    model = with_lora(tiny_model("llama").to(dtype), options)
    for layer in layers(model):
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.3)
    return model


def of_peft(model: Any) -> Any:
    """The same layers with peft's own forward pass."""
    other = copy.deepcopy(model)
    for layer in layers(other):
        layer.__class__ = peft.tuners.lora.Linear
    return other


def gradients(model: Any) -> torch.Tensor:
    ids = torch.arange(24).view(2, 12)
    model(input_ids=ids, labels=ids).loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_gradients_are_pefts_in_float64():
    model = model_of(torch.float64)
    ours, theirs = gradients(model), gradients(of_peft(model))
    assert ours.abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_in_half_precision_it_is_off_by_that_precisions_rounding():
    torch.manual_seed(0)
    x, base = torch.randn(64, 48).bfloat16(), torch.randn(96, 48).bfloat16()
    down, up = torch.randn(8, 48), torch.randn(96, 8)
    exact = x.double() @ (base.double() + 3 * up.double() @ down.double()).T
    found = adapted(x @ base.T, x, down, up, 3.0)
    assert found.dtype == torch.bfloat16
    error = float((found.double() - exact).norm() / exact.norm())
    assert error < torch.finfo(torch.bfloat16).eps


class Written(TorchDispatchMode):
    """Counts operators that write, and their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.count, self.bytes = self.count + 1, self.bytes + out.nbytes
        return out


def test_it_writes_less_than_half_of_what_peft_does():
    layer = layers(model_of(torch.bfloat16))[0]
    other = layers(of_peft(model_of(torch.bfloat16)))[0]
    x = torch.randn(50, layer.in_features).bfloat16()
    with torch.no_grad(), Written() as ours:
        layer(x)
    with torch.no_grad(), Written() as theirs:
        other(x)
    assert ours.count < theirs.count and ours.bytes < 0.5 * theirs.bytes


def test_without_adapters_it_is_the_base_and_merged_ones_are_not_added_twice():
    model = model_of(torch.float64)
    layer = layers(model)[0]
    x = torch.randn(5, layer.in_features).double()
    with_adapter = layer(x)
    with model.disable_adapter():
        assert torch.equal(layer(x), layer.base_layer(x))
    assert torch.equal(layer(x), with_adapter) and not torch.equal(layer(x), layer.base_layer(x))
    layer.merge()
    torch.testing.assert_close(layer(x), with_adapter)
    with model.disable_adapter():  # takes the merged ones out first
        torch.testing.assert_close(layer(x), layer.base_layer(x))


def test_two_adapters_at_once_are_pefts():
    layer = layers(model_of(torch.float64))[0]
    x = torch.randn(5, layer.in_features).double()
    expected = layer(x)
    second = copy.deepcopy(layer)
    second.update_layer("more", 4, lora_alpha=8, config=peft.LoraConfig(r=4, lora_alpha=8))
    second.set_adapter(["default", "more"])
    torch.nn.init.normal_(second.lora_B["more"].weight)
    added = second.lora_B["more"](second.lora_A["more"](x.to(second.lora_A["more"].weight.dtype)))
    torch.testing.assert_close(second(x), expected + 2 * added.double())


def test_its_state_has_pefts_names():
    model = model_of(torch.float32)
    assert [*model.state_dict()] == [*of_peft(model).state_dict()]
    assert peft.get_peft_model_state_dict(model).keys() == (
        peft.get_peft_model_state_dict(of_peft(model)).keys()
    )
