"""Low-rank adapters on the policy, by peft; checkpoints hold the adapters alone."""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from gprl_lightning.config import LoraConfig
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.adapted_linear import lean_adapters


def with_lora(model: PreTrainedModel, config: LoraConfig) -> nn.Module:
    """Return ``model`` with trainable low-rank adapters and all else frozen (Hu et al.,
    2106.09685).

    Raises:
        ConfigError: peft is not installed; a target is no layer, or none that can have an adapter.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "policy.lora: needs peft. Install it with `pip install gprl-lightning[lora]`, or set "
            "policy.lora=null."
        ) from error
    targets = config.target_modules
    for target in [] if isinstance(targets, str) else targets:
        # peft leaves a name out that is nowhere, as long as another one is somewhere.
        if not any(name == target or name.endswith(f".{target}") for name, _ in _layers(model)):
            raise ConfigError(_no_target(model, targets, f"no layer {target!r}"))
    try:
        adapters = peft.LoraConfig(
            r=config.r, lora_alpha=config.alpha, target_modules=targets, task_type="CAUSAL_LM"
        )
        adapted = peft.get_peft_model(model, adapters)
    except (ValueError, TypeError, AttributeError, re.error) as error:
        found = " ".join(str(error).split())[:150]
        raise ConfigError(_no_target(model, targets, found)) from error
    lean_adapters(adapted)
    return adapted


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in model.named_modules() if name]


def _no_target(model: nn.Module, targets: Any, found: str) -> str:
    linear = [n for n, layer in _layers(model) if type(layer).__name__ in ("Linear", "Conv1D")]
    names = dict.fromkeys(name.rpartition(".")[2] for name in linear)
    return (
        f"policy.lora.target_modules={targets}: expected all-linear, names of layers that can have "
        f"an adapter ({', '.join(names)}), or a regular expression for their whole names; found: "
        f"{found}. Correct policy.lora.target_modules."
    )


def leave_frozen_weights_out(policy: nn.Module) -> None:
    """Keep the weights that are not trained out of ``policy.state_dict()``, and so out of
    checkpoints; loading, also strictly, leaves them as they are. Ours."""
    policy.register_state_dict_post_hook(_drop_frozen)
    policy.register_load_state_dict_pre_hook(_fill_in_frozen)


def _frozen(module: nn.Module) -> dict[str, nn.Parameter]:
    named = module.named_parameters(remove_duplicate=False)
    return {name: parameter for name, parameter in named if not parameter.requires_grad}


def _drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in _frozen(module):
        # With the scales of a weight in 4 bits, which are named after it.
        for key in [k for k in state if k == prefix + name or k.startswith(f"{prefix}{name}.")]:
            del state[key]


def _fill_in_frozen(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, parameter in _frozen(module).items():
        state.setdefault(prefix + name, parameter)
