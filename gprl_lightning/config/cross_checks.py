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
from gprl_lightning.config.checkpoint_headers import head_shape
from gprl_lightning.config.judging import judge_paths, judge_specs
from gprl_lightning.config.roads import BUILTIN_MODELS, check_given, check_roads, check_sandbox
from gprl_lightning.config.trainer_checks import check_sharding, check_trainer
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


def check_preference_model(config: Config) -> None:
    model = config.preference_model
    if model.source:
        return  # it says what is wrong with it by itself
    if model.kind == "gold":
        _check_gold(config)
    scalar = model.kind in ("bradley_terry", "gold")
    if scalar and model.num_axes not in (1, None):
        raise ConfigError(
            f"preference_model.num_axes={model.num_axes}: expected 1, because "
            f"preference_model.kind={model.kind} has one axis. Set preference_model.num_axes=1, or "
            "preference_model.kind=gpm."
        )
    if config.algorithm.name == "grpo" and not scalar:
        raise ConfigError(
            f"preference_model.kind={model.kind}: expected bradley_terry, because algorithm=grpo "
            "takes a scalar reward. Choose preference_model=sandbox_bt (smollm2_135m_bt, "
            "folder_bt), or ablation=grpo_bt, which sets both."
        )
    asking = config.algorithm.asks_for_rewards
    if asking and model.kind in ("gpm", "gold"):
        raise ConfigError(
            f"{asking}: expected a preference source with a reward of its own for each response; "
            f"found preference_model.kind={model.kind}, which compares responses only. Set "
            "preference_model=sandbox_bt, or another rule, such as "
            "algorithm.advantage.baseline=group."
        )
    if model.members > 1 and (model.kind != "bradley_terry" or model.path not in BUILTIN_MODELS):
        raise ConfigError(
            f"preference_model.members={model.members}: expected Bradley-Terry models that are "
            f"trained on demand; found preference_model.kind={model.kind} and preference_model."
            f"path={model.path}. Choose preference_model=sandbox_bt_ensemble, or "
            "preference_model=bt_ensemble 'preference_model.folders=[a,b,c]' for checkpoints."
        )
    named = config.preference_training.axis_attributes
    if len(named) > (model.num_axes or 0) or (scalar and named):
        raise ConfigError(
            f"preference_training.axis_attributes={named}: expected at most one attribute per axis "
            f"of a GPM, and preference_model.num_axes={model.num_axes} (kind={model.kind}). Name "
            "fewer, or raise preference_model.num_axes."
        )
    if config.preference_training.canonical_axes != "none" and (
        model.kind != "gpm" or model.num_axes == 1 or named
    ):
        raise ConfigError(
            f"preference_training.canonical_axes={config.preference_training.canonical_axes}: "
            "expected a GPM of two axes or more without labels of their own; found "
            "preference_model.kind="
            f"{model.kind}, preference_model.num_axes={model.num_axes}, "
            f"preference_training.axis_attributes={named}. Set preference_training.canonical_axes="
            "none."
        )
    if len(set(named)) < len(named):
        raise ConfigError(
            f"preference_training.axis_attributes={named}: expected different attributes; found "
            "one twice. Name each once."
        )
    _check_values(config)
    found = head_shape(Path(model.path).expanduser())
    if found is None:
        return
    kind, axes = found
    if model.kind != kind or model.num_axes not in (axes, None):
        heads = {"gpm": "2 per axis", "bradley_terry": "1", "multi_head": "1 per label"}
        rows = {"gpm": 2 * axes}.get(kind, axes)
        wanted = {"gpm": 2 * (model.num_axes or axes)}.get(model.kind, model.num_axes or axes)
        raise ConfigError(
            f"preference_model.num_axes={model.num_axes} (kind={model.kind}): expected a head of "
            f"{wanted} entries ({heads.get(model.kind, '1')}); the one in {model.path} has {rows}. "
            f"Set preference_model.kind={kind} preference_model.num_axes={axes}, or another "
            "preference_model.path."
        )


def _check_values(config: Config) -> None:
    """Values that do not see the prompt need a gate that does, on two axes or more."""
    model, gated = config.preference_model, config.preference_training.gated
    trained = config.task == "train_preference_model" or model.path in BUILTIN_MODELS
    if model.values == "answer_only" and (
        model.kind != "gpm" or model.num_axes == 1 or (trained and not gated)
    ):
        raise ConfigError(
            "preference_model.values=answer_only: expected a gated GPM of two axes or more, "
            "because only its gate sees the prompt; found preference_model.kind="
            f"{model.kind}, preference_model.num_axes={model.num_axes}, preference_training.gated="
            f"{str(gated).lower()}. Set preference_model.values=conversation, or "
            "preference_model.kind=gpm preference_model.num_axes=3 preference_training.gated=true."
        )


def _check_gold(config: Config) -> None:
    drift = config.drift
    task = "train_policy" if config.task == "best_of_n" else config.task
    statistic = drift.statistic if drift.enabled else "surprise"
    for key, found, expected, why in (
        ("task", task, "train_policy", "the gold is not trained"),
        ("preference_model.path", config.preference_model.path, "sandbox", "it is the sandbox's"),
        ("data.path", config.data.path, "sandbox", "it knows the sandbox's requests alone"),
        ("drift.statistic", statistic, "surprise", "the share of its one axis never moves"),
    ):
        if found != expected:
            raise ConfigError(
                f"{key}={found}: expected {expected} with preference_model.kind=gold, because "
                f"{why}. Set {key}={str(expected).lower()}, or preference_model.kind=gpm."
            )


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
