"""Low-rank adapters on the policy, by peft; checkpoints hold the adapters alone."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from gprl_lightning.config import LoraConfig
from gprl_lightning.errors import ConfigError


def with_lora(model: PreTrainedModel, config: LoraConfig) -> nn.Module:
    """Return ``model`` with trainable low-rank adapters and all else frozen (Hu et al.,
    2106.09685).

    Raises:
        ConfigError: peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "policy.lora: needs peft. Install it with `pip install gprl-lightning[lora]`, or set "
            "policy.lora=null."
        ) from error
    adapters = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        target_modules=config.target_modules,
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, adapters)


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
        state.pop(prefix + name, None)


def _fill_in_frozen(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, parameter in _frozen(module).items():
        state.setdefault(prefix + name, parameter)
