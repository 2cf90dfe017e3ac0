"""The parts of a run, built from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.optim import Optimizer

from gprl_lightning.callbacks.drift_monitor import DriftMonitor
from gprl_lightning.callbacks.invariants import Invariants
from gprl_lightning.callbacks.kl_schedule import KLSchedule, read_schedule
from gprl_lightning.config import Config, DriftConfig, PolicyConfig, RolloutConfig
from gprl_lightning.config.trainer_checks import FSDP2
from gprl_lightning.core.batch import Prompt
from gprl_lightning.core.drift import DriftSettings
from gprl_lightning.core.importance import ImportanceCorrection
from gprl_lightning.core.iteration import Controlled
from gprl_lightning.core.reinforce_pp import absolute_rewards
from gprl_lightning.data.prompts import load_prompts
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.agreement import require_judge_text
from gprl_lightning.models.builtin import BUILTIN
from gprl_lightning.models.deferred import sources_wait, when_filled
from gprl_lightning.models.function_rewards import FunctionRewards
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.models.preference_source import PreferenceSource, as_module
from gprl_lightning.models.pretrained_preference import load_preference_model
from gprl_lightning.models.reading_checks import ANSWERS
from gprl_lightning.modules.parts import Parts
from gprl_lightning.rollout.ahead import Ahead
from gprl_lightning.rollout.sampler import Sampler, Sampling
from gprl_lightning.sandbox.gold_reward import GoldSource
from gprl_lightning.sandbox.golds import gold_of
from gprl_lightning.sandbox.prompts import sandbox_prompts
from gprl_lightning.tasks.pairs import preference_pairs
from gprl_lightning.tasks.sandbox_preference_model import sandbox_ensemble, sandbox_preference_model


def build_prompts(config: Config) -> tuple[list[Prompt], list[Prompt]]:
    """Return the (train, held-out) prompts of ``data``: the sandbox's, a file's or the hub's."""
    data = config.data
    if data.path == "sandbox":
        train, held_out = sandbox_prompts(data, config.sandbox.gold)
    else:
        train, held_out = load_prompts(data)
    return train[: data.max_rows], held_out


def build_parts(config: Config, cfg: DictConfig, policy: Policy, prompts: list[Prompt]) -> Parts:
    """Return the parts of a run, each built when it is first asked for."""

    def source() -> PreferenceSource:
        with sources_wait(config.trainer.get("strategy") == FSDP2):
            found = build_preference_source(config, cfg)
        require_judge_text(found, policy)
        if asking := config.algorithm.asks_for_rewards:
            require_absolute_rewards(found, prompts[0], asking)
        if isinstance(found, FunctionRewards):
            found.encode = partial(_tokens, policy)
        return found

    return Parts(
        config=config,
        policy=policy,
        optimizer=make_optimizer(cfg),
        prompts=prompts,
        sampling=sampling(config.rollout),
        correction=correction(config.rollout),
        build_rule=partial(instantiate, cfg.algorithm.advantage),
        build_loss=partial(instantiate, cfg.algorithm.policy_loss),
        build_source=source,
        build_sampler=partial(sampler, config.rollout, cfg),
        build_pairs=partial(preference_pairs, config),
    )


def require_absolute_rewards(source: PreferenceSource, prompt: Prompt, setting: str) -> None:
    """Try a source on two answers to a prompt, before the first rollout: as soon as it has weights.

    Raises:
        ConfigError: its vectors are not rewards, as ``setting`` needs.
    """

    def check() -> None:
        vectors = source.embed([prompt.messages], [list(ANSWERS)], [prompt.columns]).vectors
        try:
            absolute_rewards(vectors, setting)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    parts = as_module(source).modules()
    when_filled([part for part in parts if isinstance(part, PreferenceModel)], check)


def _tokens(policy: Policy, text: str) -> list[int]:
    tokenizer: Any = policy.tokenizer
    return tokenizer(text, add_special_tokens=False).input_ids


def sampler(rollout: RolloutConfig, cfg: DictConfig) -> Sampler:
    """Return what makes the responses, with ``rollout.staleness=1`` an iteration ahead."""
    built: Sampler = instantiate(cfg.rollout.sampler)
    return Ahead(built) if rollout.staleness else built


def sampling(rollout: RolloutConfig) -> Sampling:
    """Return how responses are drawn."""
    return Sampling(
        rollout.group_size,
        rollout.max_new_tokens,
        rollout.temperature,
        rollout.top_p,
        rollout.top_k,
        rollout.min_p,
    )


def correction(rollout: RolloutConfig) -> ImportanceCorrection:
    """Return what corrects samples of another distribution."""
    return ImportanceCorrection(
        rollout.correction,
        rollout.correction_level,
        rollout.correction_low,
        rollout.correction_high,
    )


def make_optimizer(cfg: DictConfig) -> Callable[[Iterable[Tensor]], Optimizer]:
    """Return what builds the optimiser, after a step with it on a parameter of zeros.

    Raises:
        ConfigError: it takes other options, cannot make the step, or comes with a package that is
            not here.
    """
    if not package_of(str(cfg.optimizer._target_)):
        raise ConfigError(
            "optimizer=adamw_8bit: needs bitsandbytes. Install it with `pip install "
            "gprl-lightning[bitsandbytes]`, or set optimizer=adamw or optimizer=adamw_masters."
        )
    # Plain lists and numbers: an optimiser puts its options into checkpoints.
    make: Callable[[Iterable[Tensor]], Optimizer] = instantiate(cfg.optimizer, _convert_="all")
    try:
        parameter = torch.nn.Parameter(torch.zeros(1))
        parameter.grad = torch.zeros(1)
        make([parameter]).step()
    except Exception as error:  # whatever a class of anybody's raises
        raise ConfigError(
            f"optimizer: expected options that {cfg.optimizer._target_} takes; found: {error}. "
            "Correct optimizer.*"
        ) from error
    return make


def package_of(target: str) -> bool:
    """Return True unless ``target`` is bitsandbytes', and that is not installed."""
    name = target.partition(".")[0]
    return name != "bitsandbytes" or find_spec(name) is not None


def require_device(trainer: DictConfig, policy: PolicyConfig) -> None:
    """Raise ConfigError where a GPU is asked for, or weights in 4 bits, and there is none."""
    if policy.quantization and not torch.cuda.is_available():
        raise ConfigError(
            f"policy.quantization={policy.quantization}: expected a CUDA GPU; found none. Set "
            "lora=adapters, or train on a machine with one."
        )
    if trainer.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"trainer.accelerator={trainer.accelerator}: expected a CUDA GPU; found none. Choose "
            "trainer=cpu, or install a PyTorch that supports this machine's GPU."
        )


def build_preference_source(config: Config, cfg: DictConfig) -> PreferenceSource:
    """Return what ``preference_model.source`` names, or the gold, an ensemble, or a preference
    model."""
    if config.preference_model.source:
        return instantiate(cfg.preference_model.source)
    if config.preference_model.kind == "gold":
        return GoldSource(gold_of(config))
    if config.preference_model.members > 1:
        return sandbox_ensemble(config)
    return build_preference_model(config)


def build_preference_model(config: Config) -> PreferenceModel:
    """Return the sandbox's preference model, trained on demand, or a checkpoint's."""
    options = config.preference_model
    if options.path in BUILTIN:
        return sandbox_preference_model(config)
    return load_preference_model(
        options.path,
        num_axes=options.num_axes,
        kind=options.kind,
        eigenvalue_scale=options.eigenvalue_scale,
        l2_normalize=options.l2_normalize,
        l2_scope=options.l2_scope,
        gate_temperature=options.gate_temperature,
        values=options.values,
        tau=options.tau,
        dtype=options.dtype,
        max_tokens=options.max_tokens,
        batch_size=options.batch_size,
        chat_template=options.chat_template,
    )


def to_container(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain values."""
    return cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))


def invariants(config: Config, folder: Path) -> L.Callback:
    """Return the checks that every run makes; the first of all callbacks."""
    options = config.algorithm
    return Invariants(
        folder,
        options.max_bad_steps,
        options.max_logprob_mismatch,
        max_silent_iterations=options.max_silent_iterations,
    )


def drift_control(config: Config, module: L.LightningModule, folder: Path) -> list[L.Callback]:
    """Return the monitor of ``drift``, or the schedule that replays one, or nothing.

    Raises:
        ConfigError: the objective has no β and no axes that a monitor could set.
    """
    kl_coef, schedule = config.algorithm.kl_coef, config.drift.schedule
    if schedule is None and not config.drift.enabled:
        return []
    if not isinstance(module, Controlled):
        raise ConfigError(
            "drift.enabled=true: expected an objective with axis multipliers and a β that a "
            f"monitor could move; found {type(module).__name__}, which has neither. Set "
            "drift=disabled."
        )
    if schedule is not None:
        return [KLSchedule(read_schedule(schedule, config.iterations, kl_coef))]
    return [DriftMonitor(drift_settings(config.drift, kl_coef), axes_of(module), folder)]


def axes_of(module: L.LightningModule) -> int:
    """Return k of the objective's reward; 0 if it has none that a monitor could watch."""
    return len(module.control.axis_multipliers) if isinstance(module, Controlled) else 0


def drift_settings(drift: DriftConfig, kl_coef: float) -> DriftSettings:
    values = {k: v for k, v in vars(drift).items() if k not in {"enabled", "anchor", "schedule"}}
    return DriftSettings(kl_coef=kl_coef, **values)
