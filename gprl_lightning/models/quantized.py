"""Weights in 4 bits under adapters (QLoRA, Dettmers et al., arXiv 2305.14314), by bitsandbytes."""

from __future__ import annotations

import copy
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gprl_lightning.errors import ConfigError


def loading_options(dtype: torch.dtype) -> dict[str, Any]:
    """Return what ``from_pretrained`` needs to hold matrices as NF4, with scales in 8 bits.

    Args:
        dtype: what products are computed in.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            "policy.quantization=nf4: needs bitsandbytes. Install it with `pip install "
            "gprl-lightning[bitsandbytes]`, or set lora=adapters."
        )
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    there = torch.cuda.is_available()
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if there else "cpu"
    return {"quantization_config": how, "device_map": {"": device}}


def quantizable(model: PreTrainedModel) -> int:
    """Return how many parameters would be in 4 bits: all matrices' but the output layer's."""
    head = model.get_output_embeddings()
    linear = (m for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    return sum(m.weight.numel() for m in linear)


def plain_weight(linear: Any) -> Tensor:
    """Return a layer's weight as a matrix: its own, or what its 4 bits stand for."""
    weight = linear.weight
    if getattr(weight, "quant_state", None) is None:
        return weight.detach()
    functional: Any = import_module("bitsandbytes.functional")  # an extra
    return functional.dequantize_4bit(weight.data, weight.quant_state)


def merged_weight(linear: Any) -> Tensor:
    """Return the weight with what the active adapters add, in float32 or wider."""
    base = plain_weight(linear.base_layer)
    wide = base.to(torch.promote_types(base.dtype, torch.float32), copy=True)
    for name in () if linear.disable_adapters else linear.active_adapters:
        wide += linear.get_delta_weight(name).to(wide.dtype)
    return wide


@torch.no_grad()
def save_merged(model: PreTrainedModel, folder: str | Path, dtype: torch.dtype) -> None:
    """Write the whole network in ``dtype``, without quantisation and with the adapters added in."""
    state: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if hasattr(layer, "base_layer"):
            state[f"{name}.weight"] = merged_weight(layer).to(dtype)
            if layer.base_layer.bias is not None:  # type: ignore[union-attr]
                state[f"{name}.bias"] = layer.base_layer.bias.to(dtype)  # type: ignore[union-attr]
        elif hasattr(layer, "weight") and ".base_layer" not in name and "lora_" not in name:
            state[f"{name}.weight"] = plain_weight(layer).to(dtype)
            if getattr(layer, "bias", None) is not None:
                state[f"{name}.bias"] = layer.bias.to(dtype)  # type: ignore[union-attr,operator]
    config: Any = copy.deepcopy(model.config)
    del config.quantization_config
    with torch.device("meta"):
        whole: Any = type(model)(config)
    whole.load_state_dict(state, strict=False, assign=True)
    whole.tie_weights()
    whole.save_pretrained(folder)


def is_quantized(model: nn.Module) -> bool:
    """Return True if some of the weights are in 4 bits."""
    return any(getattr(p, "quant_state", None) is not None for p in model.parameters())
