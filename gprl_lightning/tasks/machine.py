"""The precision of this machine: ``trainer.precision=auto``, and a word where one is slow."""

from __future__ import annotations

import platform

import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from gprl_lightning.config import Config
from gprl_lightning.models.memory_plan import GB
from gprl_lightning.tasks.plan_memory import device_bytes, fitting_tokens

MIXED, FULL = "bf16-mixed", "32-true"


def settle_precision(config: Config, cfg: DictConfig) -> None:
    """Put bf16-mixed in the place of ``trainer.precision=auto`` if the device that
    ``trainer.accelerator`` chooses computes in bfloat16, else 32-true, and say which.

    A bf16-mixed that is asked for by name is kept; a line says that it is slow here.
    """
    asked = config.trainer.get("precision")
    if asked not in ("auto", MIXED, "bf16"):
        return
    device = device_of(config.trainer.get("accelerator", "auto"))
    fast = computes_bfloat16(device)
    if asked == "auto":
        chosen = MIXED if fast else FULL
        config.trainer["precision"] = cfg.trainer.precision = chosen
        has = "has" if fast else "has no"
        _say(f"trainer.precision=auto: {chosen}; this {device} {has} bfloat16 arithmetic")
    elif not fast:
        _say(
            f"trainer.precision={asked}: this {device} has no bfloat16 arithmetic, and imitates it "
            f"several times slower than float32. Set trainer.precision={FULL}, or auto."
        )


def settle_micro_batch(config: Config, cfg: DictConfig) -> None:
    """Put a number of tokens in the place of ``algorithm.micro_batch_tokens=auto``, by the memory
    plan and the device, and say which."""
    if config.algorithm.micro_batch_tokens != "auto":
        return
    policy = config.task == "train_policy"
    tokens = fitting_tokens(config) if policy else None
    config.algorithm.micro_batch_tokens = cfg.algorithm.micro_batch_tokens = tokens
    if policy:
        room = device_bytes(config) / GB
        _say(f"algorithm.micro_batch_tokens=auto: {tokens}, by plan=true, of {room:.0f} GB")


@rank_zero_only
def _say(text: str) -> None:
    print(text)


def device_of(accelerator: str) -> str:
    """Return the kind of device that Lightning takes for `accelerator`."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "GPU"
    return "CPU"


def computes_bfloat16(device: str) -> bool:
    """Return True if the device multiplies in bfloat16 by instructions of its own.

    A CPU without them has PyTorch convert every operand: SmolLM2-135M was seven times slower so.
    """
    if device == "GPU":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine() in ("aarch64", "arm64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[operator]
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
