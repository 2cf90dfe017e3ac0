"""Contradictions between options, and files that do not exist, told before anything loads.

Every message names the key, what was expected, what was found, and a fix.
"""

from __future__ import annotations

import difflib
import os
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gprl_lightning.config import Config
from gprl_lightning.config.judging import judge_paths, judge_specs
from gprl_lightning.config.preference_checks import check_preference_model
from gprl_lightning.config.roads import BUILTIN_MODELS, check_given, check_roads, check_sandbox
from gprl_lightning.config.trainer_checks import check_offload, check_sharding, check_trainer
from gprl_lightning.errors import ConfigError

DATA_FILES = (".jsonl", ".json", ".parquet")
MOST = {"eps": 1, "weight_decay": 10}  # of an optimiser
LEAST_POLYNOMIAL = 1e-7  # where the polynomial schedule of transformers ends


def cross_check(config: Config) -> None:
    """Raise a `ConfigError` for the first contradiction."""
    check_batches(config)
    check_preference_model(config)
    check_data(config)
    check_built(config)
    check_optimisation(config)
    check_trainer(config.trainer)
    check_sharding(config)
    check_offload(config)
    check_given(config)
    check_paths(config)
    check_roads(config)
    check_sandbox(config)
    check_wandb(config.logger)


def check_batches(config: Config) -> None:
    prompts, size = config.data.prompts_per_step, config.rollout.group_size
    rollouts, parts = prompts * size, config.algorithm.minibatches
    product = f"data.prompts_per_step × rollout.group_size = {prompts} × {size} = {rollouts}"
    if rollouts % parts:
        raise ConfigError(
            f"algorithm.minibatches={parts}: expected a divisor of {product} rollouts. "
            f"Set algorithm.minibatches={_divisor(rollouts, parts)}."
        )
    minibatch, micro = rollouts // parts, config.algorithm.micro_batch_size
    if micro is not None and minibatch % micro:
        raise ConfigError(
            f"algorithm.micro_batch_size={micro}: expected a divisor of a minibatch of {minibatch} "
            f"rollouts ({product}, in {parts} minibatches). "
            f"Set algorithm.micro_batch_size={_divisor(minibatch, micro)}."
        )
    pairs, micro = (
        config.preference_training.batch_size,
        config.preference_training.micro_batch_size,
    )
    if micro is not None and pairs % micro:
        raise ConfigError(
            f"preference_training.micro_batch_size={micro}: expected a divisor of "
            f"preference_training.batch_size={pairs}, such as {_divisor(pairs, micro)}."
        )


def _divisor(total: int, near: int) -> int:
    return max(n for n in range(1, min(total, near) + 1) if total % n == 0)


def check_data(config: Config) -> None:
    asked = config.task in ("train_policy", "best_of_n")
    if not asked or not judge_specs(config.evaluation):
        return
    wanted, held_out = config.evaluation.prompts, config.data.held_out
    if held_out == 0:
        raise ConfigError(
            "data.held_out=0: expected held-out prompts for the evaluation. Set "
            "data.held_out=200, or evaluation.judge=none."
        )
    if wanted > held_out:
        raise ConfigError(
            f"evaluation.prompts={wanted}: expected at most data.held_out={held_out}, the prompts "
            f"that are kept for it. Set evaluation.prompts={held_out}, or data.held_out={wanted}."
        )


def check_built(config: Config) -> None:
    """Check that all that is built by its ``_target_`` has one."""
    one = {
        "objective": config.objective,
        "optimizer": config.optimizer,
        "trainer": config.trainer,
        "algorithm.advantage": config.algorithm.advantage,
        "algorithm.policy_loss": config.algorithm.policy_loss,
    }
    many = {"callbacks": config.callbacks, "logger": config.logger}
    entries = {f"{key}.{name}": e for key, section in many.items() for name, e in section.items()}
    for key, node in {**one, "rollout.sampler": config.rollout.sampler, **entries}.items():
        target = node.get("_target_") if isinstance(node, dict) else node
        if not isinstance(node, dict) or not isinstance(target, str) or not target:
            group = key.replace(".", "/")
            fix = (
                f"Choose {group}=..., without ~{group}" if key in one else f"Write ~{key} for none"
            )
            raise ConfigError(
                f"{key}: expected a section whose _target_ is the dotted name of a class; found "
                f"{target!r}. {fix}."
            )
        later = key in ("objective", "optimizer")  # what they are made from is not there yet
        # A rule or a loss may be a plain function, of which Hydra makes one with its options.
        later |= key.startswith("algorithm.") and target.rpartition(".")[2][:1].islower()
        if node.get("_partial_", False) is not later and isinstance(node.get("_partial_"), bool):
            raise ConfigError(
                f"{key}._partial_={node['_partial_']}: expected {str(later).lower()}. Leave the "
                "key as it was."
            )


def check_optimisation(config: Config) -> None:
    rate: Any = config.optimizer.get("lr")
    if type(rate) not in (int, float) or not 0 < rate <= 10:
        raise ConfigError(
            f"optimizer.lr={rate!r}: expected a number > 0 and at most 10, such as 1e-6."
        )
    for option, most in MOST.items():
        found: Any = config.optimizer.get(option)
        if isinstance(found, int | float) and not 0 <= found <= most:
            raise ConfigError(
                f"optimizer.{option}={found!r}: expected in [0, {most}]. Set such a value."
            )
    if config.scheduler.name == "polynomial" and rate <= LEAST_POLYNOMIAL:
        raise ConfigError(
            f"optimizer.lr={rate!r}: expected more than {LEAST_POLYNOMIAL:g} with "
            "scheduler.name=polynomial, which ends there. Set scheduler.name=linear."
        )


def check_paths(config: Config) -> None:
    models = {
        "policy.path": config.policy.path,
        "preference_model.path": config.preference_model.path,
        "preference_training.backbone": config.preference_training.backbone,
        **judge_paths(config.evaluation),
    }
    for key, value in models.items():
        _check_model(key, value)
    for key in ("path", "held_out_path"):
        value = getattr(config.data, key)
        if value and (_is_local(value) or value.endswith(DATA_FILES)):
            _must_exist(f"data.{key}", value)
    templates = {"policy": config.policy, "preference_model": config.preference_model}
    for key, section in templates.items():
        if section.chat_template is not None:
            _must_exist(f"{key}.chat_template", section.chat_template)
    if config.ckpt_path is not None:
        _must_exist("ckpt_path", config.ckpt_path)


def _check_model(key: str, value: str) -> None:
    if value in BUILTIN_MODELS:
        return
    folder = Path(value).expanduser()
    if folder.is_dir():
        _must_exist(key, str(folder / "config.json"))
    elif _is_local(value):
        _must_exist(key, value)
    elif "/" not in value and (near := difflib.get_close_matches(value, BUILTIN_MODELS, 1, 0.7)):
        raise ConfigError(
            f"{key}={value}: expected a folder, a hub name, or one of {', '.join(BUILTIN_MODELS)}. "
            f"Did you mean {key}={near[0]}?"
        )


def _is_local(path: str) -> bool:
    return path.startswith(("/", "./", "../", "~"))


def _must_exist(key: str, path: str) -> None:
    if not Path(path).expanduser().exists():
        raise ConfigError(
            f"{key}={path}: expected an existing file or folder; there is none. Correct "
            "the path: relative ones start from the folder that the command is run in."
        )


def check_wandb(loggers: dict[str, Any]) -> None:
    mode = loggers.get("wandb", {}).get("mode", "offline")
    if mode not in ("online", "offline", "disabled"):
        raise ConfigError(f"logger.wandb.mode={mode!r}: expected online | offline | disabled.")
    if mode == "online" and not _wandb_credentials():
        raise ConfigError(
            "logger.wandb.mode=online: expected a W&B account; found neither WANDB_API_KEY nor a "
            "login. Run `wandb login`, or set logger.wandb.mode=offline."
        )


def _wandb_credentials() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc(str(file)).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False
