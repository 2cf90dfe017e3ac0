"""Training a policy: the object graph, explicit, from the configuration to the closing table."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig

from gprl_lightning.callbacks.caution import Caution, say
from gprl_lightning.callbacks.iteration_checkpoint import IterationCheckpoint
from gprl_lightning.callbacks.progress import IterationBar
from gprl_lightning.config import Config
from gprl_lightning.config.cautions import setup_cautions
from gprl_lightning.data.prompts import PromptLoader
from gprl_lightning.models.agreement import require_judge_text
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.policy import Policy, load_policy, save_policy
from gprl_lightning.models.prompt_lengths import require_room
from gprl_lightning.rollout.ahead import Ahead
from gprl_lightning.runtime.checkpoint_files import checkpoint_to_resume, iteration_of
from gprl_lightning.runtime.profiling import make_profiler
from gprl_lightning.runtime.run_identity import (
    identity_in,
    require_same_config,
    require_same_contents,
)
from gprl_lightning.tasks.build import (
    build_module,
    build_preference_source,
    build_prompts,
    drift_control,
    encode,
    held_out_evaluation,
    invariants,
    require_device,
    to_container,
)
from gprl_lightning.tasks.identity import run_identity
from gprl_lightning.tasks.plan_memory import plan_memory
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.loggers import MetricsCSV, read_metrics, recorded_by
from gprl_lightning.tracking.report import print_table, summary_rows, write_report
from gprl_lightning.tracking.run_folder import begin, prepare, write_summary


def train_policy(config: Config, cfg: DictConfig, folder: Path) -> float | None:
    """GPRL (or GRPO) from a policy, a preference model and prompts; returns the final win rate."""
    if config.plan:
        plan_memory(config)
        return None
    require_device(cfg.trainer)
    container = to_container(cfg)
    checkpoint = checkpoint_to_resume(config.ckpt_path, folder)
    saved = identity_in(checkpoint) if checkpoint else None
    if saved:
        require_same_config(saved, container, config.resume.allow)
    prepare(config)
    prompts, held_out = build_prompts(config.data)
    folder_of_policy = policy_folder(config.policy.path, config.paths.cache)
    policy = load_policy(config.policy, folder_of_policy, config.rollout.temperature)
    require_room(
        [*prompts, *held_out], policy, config.data.max_prompt_tokens, config.rollout.max_new_tokens
    )
    source = build_preference_source(config, cfg)
    require_judge_text(source, policy)
    module = build_module(config, cfg, policy, source)
    csv = MetricsCSV(folder)
    saving = IterationCheckpoint(folder / "checkpoints", config.checkpoint_every)
    trainer: L.Trainer = instantiate(
        cfg.trainer,
        profiler=make_profiler(cfg.trainer.get("profiler"), folder),
        callbacks=[
            invariants(config, folder),
            *drift_control(config, len(source.axes), folder),
            *held_out_evaluation(config, policy, held_out, module),
            *[instantiate(c) for c in cfg.callbacks.values()],
            IterationBar(),
            Caution(),
            saving,
        ],
        logger=[csv, *[instantiate(c) for c in cfg.logger.values()]],
        default_root_dir=folder,
    )
    loader = PromptLoader(
        prompts,
        encode=partial(encode, policy, config.data.max_prompt_tokens),
        prompts_per_step=config.data.prompts_per_step * config.algorithm.oversample,
        iterations=config.iterations,
        seed=config.seed,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
    )
    if module.anchors:
        module.anchors.upcoming = loader.batch
    if isinstance(module.sampler, Ahead):
        module.sampler.upcoming = loader.batch_or_none
    identity = run_identity(container, prompts, policy, source, trainer.world_size)
    saving.identity = identity
    if checkpoint and saved:
        require_same_contents(saved, identity, config.resume.allow)
        csv.continue_from(iteration_of(checkpoint))
        print(f"going on from {checkpoint}")
    begin(cfg, folder)
    cautions = setup_cautions(config, len(source.axes))
    if trainer.is_global_zero:
        say(cautions)
    with recorded_by(trainer.loggers, cfg):
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=False)
    return finish(config, trainer, policy, folder, cautions)


def finish(
    config: Config, trainer: L.Trainer, policy: Policy, folder: Path, cautions: list[str]
) -> float | None:
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
    write_summary(config, folder, final, paths, cautions)
    print_table(summary_rows(columns, cautions), f"{config.name}, seed {config.seed}")
    print(f"results: {os.path.relpath(folder)}   picture: {os.path.relpath(folder / 'report.png')}")
    return final.get(metrics.EVAL_WIN_RATE)
