"""Training a policy: the object graph, explicit, from the configuration to the closing table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.optim import Optimizer

from gprl_lightning import metrics
from gprl_lightning.callbacks.checkpoint import IterationCheckpoint
from gprl_lightning.callbacks.drift_monitor import DriftMonitor
from gprl_lightning.callbacks.evaluation import HeldOutEvaluation
from gprl_lightning.callbacks.invariants import Invariants
from gprl_lightning.callbacks.kl_schedule import KLSchedule, read_schedule
from gprl_lightning.callbacks.progress import IterationBar
from gprl_lightning.checkpoint_files import checkpoint_to_resume, iteration_of
from gprl_lightning.config import Config, ConfigError, DriftConfig
from gprl_lightning.core.batch import PromptBatch
from gprl_lightning.core.drift import DriftSettings
from gprl_lightning.data.prompt_lengths import require_room
from gprl_lightning.data.prompts import Prompt, PromptLoader, load_prompts
from gprl_lightning.evaluation.judges import make_judge
from gprl_lightning.loggers import MetricsCSV, read_metrics, recorded_by
from gprl_lightning.models.policy import Policy, load_policy, reference_of, save_policy
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.modules.gprl import GPRLModule
from gprl_lightning.profiling import make_profiler
from gprl_lightning.report import print_table, summary_rows, write_report
from gprl_lightning.resume import (
    identity_in,
    require_same_config,
    require_same_contents,
    run_identity,
)
from gprl_lightning.run_folder import begin, prepare, write_summary
from gprl_lightning.sandbox.builtin import BUILTIN, policy_folder, sandbox_preference_model


def train_policy(config: Config, cfg: DictConfig, folder: Path) -> float | None:
    """GPRL (or GRPO) from a policy, a preference model and prompts; returns the final win rate."""
    require_device(cfg.trainer)
    container = to_container(cfg)
    checkpoint = checkpoint_to_resume(config.ckpt_path, folder)
    saved = identity_in(checkpoint) if checkpoint else None
    if saved:
        require_same_config(saved, container, config.resume.allow)
    prepare(config)
    prompts, held_out = load_prompts(config.data)
    folder_of_policy = policy_folder(config.policy.path, config.paths.cache)
    policy = load_policy(config.policy, folder_of_policy, config.rollout.temperature)
    require_room(
        [*prompts, *held_out], policy, config.data.max_prompt_tokens, config.rollout.max_new_tokens
    )
    preference_model = build_preference_model(config)
    module = build_module(config, cfg, policy, preference_model)
    csv = MetricsCSV(folder)
    saving = IterationCheckpoint(folder / "checkpoints", config.checkpoint_every)
    trainer: L.Trainer = instantiate(
        cfg.trainer,
        profiler=make_profiler(cfg.trainer.get("profiler"), folder),
        callbacks=[
            invariants(config, folder),
            *drift_control(config, preference_model.num_axes, folder),
            *held_out_evaluation(config, policy, held_out, module),
            *[instantiate(c) for c in cfg.callbacks.values()],
            IterationBar(),
            saving,
        ],
        logger=[csv, *[instantiate(c) for c in cfg.logger.values()]],
        default_root_dir=folder,
    )
    loader = PromptLoader(
        prompts,
        encode=partial(encode, policy, config.data.max_prompt_tokens),
        prompts_per_step=config.data.prompts_per_step,
        iterations=config.iterations,
        seed=config.seed,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
    )
    if module.anchors:
        module.anchors.upcoming = loader.batch
    identity = run_identity(container, prompts, policy, preference_model, trainer.world_size)
    saving.identity = identity
    if checkpoint and saved:
        require_same_contents(saved, identity, config.resume.allow)
        csv.continue_from(iteration_of(checkpoint))
        print(f"going on from {checkpoint}")
    begin(cfg, folder)
    with recorded_by(trainer.loggers, cfg):
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=False)
    return finish(config, trainer, policy, folder)


def build_module(
    config: Config, cfg: DictConfig, policy: Policy, preference_model: PreferenceModel
) -> GPRLModule:
    """The algorithm with its parts."""
    return GPRLModule(
        policy=policy,
        reference=reference_of(policy),
        preference_model=preference_model,
        sampler=instantiate(cfg.rollout),
        algorithm=config.algorithm,
        optimizer=make_optimizer(cfg),
        scheduler=config.scheduler,
        iterations=config.iterations,
        seed=config.seed,
        anchored=config.drift.enabled and config.drift.anchor,
    )


def make_optimizer(cfg: DictConfig) -> Callable[[Iterable[Tensor]], Optimizer]:
    """What builds the optimiser, tried on a parameter: its options are refused now, by name."""
    make: Callable[[Iterable[Tensor]], Optimizer] = instantiate(cfg.optimizer)
    try:
        make([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"optimizer: expected options that {cfg.optimizer._target_} takes; found: {error}. "
            "Correct optimizer.*"
        ) from error
    return make


def require_device(trainer: DictConfig) -> None:
    """Raises ConfigError where a GPU is asked for and there is none."""
    if trainer.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"trainer.accelerator={trainer.accelerator}: expected a CUDA GPU; found none. Choose "
            "trainer=cpu, or install a PyTorch that supports this machine's GPU."
        )


def build_preference_model(config: Config) -> PreferenceModel:
    """The sandbox's, trained on demand, or its gold, or a checkpoint's."""
    options = config.preference_model
    if options.kind == "gold":
        from gprl_lightning.sandbox.gold_reward import gold_preference_model

        return gold_preference_model(config)
    if options.path in BUILTIN:
        return sandbox_preference_model(config)
    from gprl_lightning.models.checkpoints import load_preference_model

    return load_preference_model(
        options.path,
        num_axes=options.num_axes,
        kind=options.kind,
        eigenvalue_scale=options.eigenvalue_scale,
        l2_normalize=options.l2_normalize,
        l2_scope=options.l2_scope,
        gate_temperature=options.gate_temperature,
        tau=options.tau,
        dtype=options.dtype,
        max_tokens=options.max_tokens,
        batch_size=options.batch_size,
        chat_template=options.chat_template,
    )


def encode(
    policy: Policy, max_tokens: int, iteration: int, uids: Any, messages: Any
) -> PromptBatch:
    return policy.encode_prompts(iteration, uids, messages, max_tokens)


def to_container(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values."""
    return cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))


def invariants(config: Config, folder: Path) -> L.Callback:
    """The checks that every run makes; the first of all callbacks."""
    options = config.algorithm
    return Invariants(folder, options.max_bad_steps, options.max_logprob_mismatch)


def drift_control(config: Config, num_axes: int, folder: Path) -> list[L.Callback]:
    """The monitor of ``drift``, or the schedule that replays one, or nothing."""
    kl_coef, schedule = config.algorithm.kl_coef, config.drift.schedule
    if schedule is not None:
        return [KLSchedule(read_schedule(schedule, config.iterations, kl_coef))]
    if not config.drift.enabled:
        return []
    return [DriftMonitor(drift_settings(config.drift, kl_coef), num_axes, folder)]


def drift_settings(drift: DriftConfig, kl_coef: float) -> DriftSettings:
    values = {k: v for k, v in vars(drift).items() if k not in {"enabled", "anchor", "schedule"}}
    return DriftSettings(kl_coef=kl_coef, **values)


def held_out_evaluation(
    config: Config, policy: Policy, held_out: list[Prompt], module: GPRLModule
) -> list[L.Callback]:
    """Win rates on held-out prompts, unless ``evaluation.judge`` is none."""
    options = config.evaluation
    votes = config.preference_training.cyclic_votes
    judge = make_judge(options.judge, module.preference_model.module, votes)
    if judge is None:
        return []
    prompts = held_out[: options.prompts]
    if not prompts:
        raise ConfigError(
            "data.held_out=0: held-out evaluation needs prompts. Raise data.held_out, or set "
            "evaluation.judge=none."
        )
    size = options.batch_size or config.data.prompts_per_step * config.rollout.group_size
    batches = [
        policy.encode_prompts(
            0, [p.uid for p in part], [p.messages for p in part], config.data.max_prompt_tokens
        )
        for part in (prompts[i : i + size] for i in range(0, len(prompts), size))
    ]
    return [HeldOutEvaluation(batches, judge, options.every, options.temperature)]


def finish(config: Config, trainer: L.Trainer, policy: Policy, folder: Path) -> float | None:
    """Save the policy, the summary and the report; print the closing table."""
    if not trainer.is_global_zero:
        return None
    save_policy(policy, folder / "policy")
    columns = read_metrics(folder / "metrics.csv")
    final = {name: values[-1] for name, (_, values) in columns.items()}
    write_report(folder)
    paths = {
        "policy": folder / "policy",
        "metrics": folder / "metrics.csv",
        "checkpoints": folder / "checkpoints",
        "report": folder / "report.png",
    }
    write_summary(config, folder, final, paths)
    print_table(summary_rows(columns), f"{config.name}, seed {config.seed}")
    print(f"results: {os.path.relpath(folder)}   picture: {os.path.relpath(folder / 'report.png')}")
    return final.get(metrics.EVAL_WIN_RATE)
