"""Low-rank adapters on the policy, by peft."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from gprl_lightning.config import ConfigError, LoraConfig


def with_lora(model: PreTrainedModel, config: LoraConfig) -> nn.Module:
    """``model`` with trainable low-rank adapters and all else frozen (Hu et al., 2106.09685).

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
