"""Train a policy: the object graph, explicit, from the configuration to the closing table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import DictConfig

from gprl_lightning.callbacks.caution import Caution, say
from gprl_lightning.callbacks.iteration_checkpoint import IterationCheckpoint
from gprl_lightning.callbacks.progress import IterationBar
from gprl_lightning.callbacks.reward_texts import RewardTexts
from gprl_lightning.config import Config
from gprl_lightning.config.cautions import setup_cautions
from gprl_lightning.config.judging import quoted_judge
from gprl_lightning.config.trainer_checks import FSDP2
from gprl_lightning.errors import EndedEarly
from gprl_lightning.evaluation.witness import not_independent
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.policy import Policy, has_adapters, load_policy, save_policy
from gprl_lightning.models.prompt_lengths import require_room
from gprl_lightning.models.reading_checks import require_readable
from gprl_lightning.rollout.plain_decoding import require_decodable
from gprl_lightning.runtime.checkpoint_files import checkpoint_to_resume
from gprl_lightning.runtime.ddp import strategy_of
from gprl_lightning.runtime.preparation import prepare
from gprl_lightning.runtime.profiling import make_profiler
from gprl_lightning.runtime.run_identity import (
    header_in,
    require_same_config,
    require_same_contents,
)
from gprl_lightning.runtime.sharding import is_sharded
from gprl_lightning.tasks.build import (
    axes_of,
    build_parts,
    build_prompts,
    drift_control,
    invariants,
    require_device,
    to_container,
)
from gprl_lightning.tasks.evaluation import build_judges, held_out_evaluation
from gprl_lightning.tasks.identity import run_identity
from gprl_lightning.tasks.offloading import offload_networks
from gprl_lightning.tasks.plan_memory import plan_memory
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.loggers import MetricsCSV, recorded_by
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.report import print_table, summary_rows, write_report
from gprl_lightning.tracking.report_page import write_page
from gprl_lightning.tracking.run_folder import begin, write_summary


def train_policy(config: Config, cfg: DictConfig, folder: Path) -> float | None:
    """Train a policy by the objective of the configuration. Return the final win rate."""
    if config.plan:
        plan_memory(config)
        return None
    require_device(cfg.trainer, config.policy)
    container = to_container(cfg)
    checkpoint = checkpoint_to_resume(config.ckpt_path, folder)
    header = header_in(checkpoint) if checkpoint else None
    if header and header.identity:
        require_same_config(header.identity, container, config.resume.allow)
    prepare(config)
    judges = build_judges(config)  # first: what is wrong with them costs no loading of the policy
    prompts, held_out = build_prompts(config)
    folder_of_policy = policy_folder(config.policy.path, config.paths.cache)
    policy = load_policy(
        config.policy,
        folder_of_policy,
        config.rollout.temperature,
        deferred=config.trainer.get("strategy") == FSDP2,
    )
    require_decodable(policy)
    require_room(
        [*prompts, *held_out], policy, config.data.max_prompt_tokens, config.rollout.max_new_tokens
    )
    parts = build_parts(config, cfg, policy, prompts)
    module: Any = instantiate(cfg.objective)(parts)  # an `Objective`
    evaluation = held_out_evaluation(config, parts, held_out, judges, folder)
    offload_networks(config, module, judges)
    source = vars(parts).get("source")
    require_readable(policy, source, [*prompts, *held_out])
    csv = MetricsCSV(folder)
    saving = IterationCheckpoint(folder / "checkpoints", config.checkpoint_every)
    watching = [*drift_control(config, module, folder), RewardTexts(), *evaluation]
    trainer = build_trainer(config, cfg, folder, csv, saving, watching)
    loader = module.loader(trainer.global_rank, trainer.world_size)
    identity = run_identity(container, parts, trainer.world_size)
    saving.identity = identity
    if checkpoint and header and header.identity:
        require_same_contents(header.identity, identity, config.resume.allow)
        # Another run's rows are in its own folder.
        here = checkpoint.resolve().parent == (folder / "checkpoints").resolve()
        lenient = not here or "metrics" in config.resume.allow
        csv.continue_from(header.iteration, None if lenient else header.rows)
        print(f"going on from {checkpoint}")
    cautions = setup_cautions(config, axes_of(module))
    cautions += [] if source is None else not_independent(judges, source)
    if trainer.is_global_zero:
        say(cautions)
    with saving.stop.heard(), recorded_by(trainer.loggers, cfg):
        with saving.restoring(checkpoint):
            trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
        require_all(config, trainer)
        return finish(config, cfg, trainer, policy, folder, cautions)


def build_trainer(
    config: Config,
    cfg: DictConfig,
    folder: Path,
    csv: MetricsCSV,
    saving: IterationCheckpoint,
    callbacks: list[L.Callback],
) -> L.Trainer:
    """Return the trainer of ``trainer``, with `callbacks` between the checks and the saving."""
    return instantiate(
        cfg.trainer,
        strategy=strategy_of(cfg.trainer, folder, config.peer_timeout, config.rollout.gather),
        profiler=make_profiler(cfg.trainer.get("profiler"), folder),
        callbacks=[
            invariants(config, folder),
            beginning(cfg, folder, saving),
            *callbacks,
            *[instantiate(c) for c in cfg.callbacks.values()],
            IterationBar(),
            Caution(),
            saving,
        ],
        logger=[csv, *[instantiate(c) for c in cfg.logger.values()]],
        default_root_dir=folder,
    )


def beginning(cfg: DictConfig, folder: Path, saving: IterationCheckpoint) -> L.Callback:
    """Return what makes the folder this run's once nothing can refuse it any more.

    What has refused it by then are the checks of all that is loaded, restored and built.
    """

    def begun(trainer: L.Trainer, _: L.LightningModule) -> None:
        saving.restored(trainer)
        if trainer.is_global_zero:
            begin(cfg, folder)

    return LambdaCallback(on_train_start=begun)


def require_all(config: Config, trainer: L.Trainer) -> None:
    """Raise EndedEarly where a callback or an option of the trainer has ended the training."""
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    if done < config.iterations:
        raise EndedEarly(
            f"iterations={config.iterations}: expected as many; found the training ended after "
            f"{done}, by a callback or an option of the trainer. They are saved: the same command "
            f"goes on from there, and with iterations={done} it ends there, as a whole run."
        )


def finish(
    config: Config,
    cfg: DictConfig,
    trainer: L.Trainer,
    policy: Policy,
    folder: Path,
    cautions: list[str],
) -> float | None:
    """Save the policy, the summary and the report; print the closing table."""
    if trainer.is_global_zero:
        begin(cfg, folder)  # where nothing was left to train, it has not been called yet
    if trainer.is_global_zero or is_sharded(policy):
        save_policy(policy, folder / "policy", merged=True)
        if has_adapters(policy):
            save_policy(policy, folder / "adapter")
    if not trainer.is_global_zero:
        return None
    columns = read_metrics(folder / "metrics.csv")
    final = {name: values[-1] for name, (_, values) in columns.items()}
    write_report(folder)
    write_page(folder)
    paths = {
        "policy": folder / "policy",
        "metrics": folder / "metrics.csv",
        "checkpoints": folder / "checkpoints",
        "report": folder / "report.html",
        "picture": folder / "report.png",
    }
    write_summary(config, folder, final, paths, cautions)
    print_table(
        summary_rows(columns, cautions, quoted_judge(config.evaluation)),
        f"{config.name}, seed {config.seed}",
    )
    print(f"results: {os.path.relpath(folder)}   report: {os.path.relpath(folder / 'report.html')}")
    return final.get(metrics.EVAL_WIN_RATE)
