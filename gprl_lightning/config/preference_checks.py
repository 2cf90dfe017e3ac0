"""Contradictions of the preference model's options, with one another and with a checkpoint's
head."""

from __future__ import annotations

from pathlib import Path

from gprl_lightning.config import Config
from gprl_lightning.config.checkpoint_headers import head_shape
from gprl_lightning.config.roads import BUILTIN_MODELS
from gprl_lightning.errors import ConfigError

SCALAR = ("bradley_terry", "gold")


def check_preference_model(config: Config) -> None:
    """Raise a `ConfigError` for the first contradiction; a source says by itself what is wrong with
    it."""
    model = config.preference_model
    if model.source:
        return
    if model.kind == "gold":
        _check_gold(config)
    _check_scalar(config)
    _check_members(config)
    _check_attributes(config)
    _check_values(config)
    _check_head(config)


def _check_scalar(config: Config) -> None:
    """One axis for a reward, and a reward for the algorithms that take one."""
    model = config.preference_model
    scalar = model.kind in SCALAR
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


def _check_members(config: Config) -> None:
    """Members of an ensemble are trained on demand."""
    model = config.preference_model
    if model.members > 1 and (model.kind != "bradley_terry" or model.path not in BUILTIN_MODELS):
        raise ConfigError(
            f"preference_model.members={model.members}: expected Bradley-Terry models that are "
            f"trained on demand; found preference_model.kind={model.kind} and preference_model."
            f"path={model.path}. Choose preference_model=sandbox_bt_ensemble, or "
            "preference_model=bt_ensemble 'preference_model.folders=[a,b,c]' for checkpoints."
        )


def _check_attributes(config: Config) -> None:
    """Attributes that axes learn, and canonical axes, which leave none to them."""
    model = config.preference_model
    scalar = model.kind in SCALAR
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


def _check_head(config: Config) -> None:
    """The head of a checkpoint's files is of the kind and the axes that are asked for."""
    model = config.preference_model
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
