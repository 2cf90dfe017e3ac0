"""A whole GPRL run, small enough for a test: random tiny models, real trainer, real callbacks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from gprl_lightning.callbacks.drift_monitor import DriftMonitor
from gprl_lightning.callbacks.evaluation import Contestants, HeldOutEvaluation
from gprl_lightning.callbacks.invariants import Invariants
from gprl_lightning.callbacks.iteration_checkpoint import IterationCheckpoint
from gprl_lightning.config import AlgorithmConfig, SchedulerConfig
from gprl_lightning.core.batch import Prompt, ScoredRollout
from gprl_lightning.core.drift import DriftSettings
from gprl_lightning.core.gprl_advantages import GPRLAdvantages
from gprl_lightning.core.policy_loss import Clip
from gprl_lightning.data.prompts import PromptLoader
from gprl_lightning.evaluation.judge import Judge
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.policy import Policy, reference_of
from gprl_lightning.modules.gprl import GPRLModule
from gprl_lightning.modules.rollout_logprobs import log_ratios
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.tracking.loggers import MetricsCSV
from tests.tiny import tiny_model, tiny_prompts, tiny_tokenizer

SIZE, TOKENS = 4, 10
SENSITIVE = DriftSettings(calibration_steps=2, threshold=1e-4)  # so that it intervenes


def tiny_policy(dtype: torch.dtype = torch.float32, **kwargs: Any) -> Policy:
    return Policy(tiny_model("llama", **kwargs).to(dtype), tiny_tokenizer())


def tiny_module(
    iterations: int = 6,
    kind: str = "gpm",
    num_axes: int = 3,
    lr: float = 1e-3,
    policy: Policy | None = None,
    anchored: bool = True,
    **algorithm: Any,
) -> GPRLModule:
    policy, options = policy or tiny_policy(), AlgorithmConfig(**algorithm)
    judge = from_backbone(
        tiny_model("llama", seed=3).model, tiny_tokenizer(), kind=kind, num_axes=num_axes
    )
    return GPRLModule(
        policy=policy,
        reference=reference_of(policy),
        preference_source=judge,
        advantage_rule=tiny_rule(options),
        policy_loss=Clip(options.clip_epsilon, options.clip_epsilon_high),
        sampler=NativeSampler(),
        sampling=Sampling(SIZE, TOKENS),
        algorithm=options,
        optimizer=partial(torch.optim.AdamW, lr=lr),
        scheduler=SchedulerConfig(name="linear"),
        iterations=iterations,
        anchored=anchored,
    )


def tiny_loader(module: GPRLModule, iterations: int = 6, per_step: int = 3, **kwargs: Any):
    prompts = [Prompt(i, ({"role": "user", "content": "say " + "ab" * i},)) for i in range(10)]
    encode = partial(_encode, module.policy)
    loader = PromptLoader(prompts, encode, per_step, iterations, seed=0, **kwargs)
    if module.anchors:
        module.anchors.upcoming = loader.batch
    return loader


def scored_rollout(module: GPRLModule, iteration: int = 0) -> ScoredRollout:
    prompts = tiny_loader(module).batch(iteration)
    return module._score(
        module.sampler.sample(module.policy, prompts, module.sampling, module.seed)
    )


def tiny_rule(options: AlgorithmConfig) -> GPRLAdvantages:
    return GPRLAdvantages(
        options.score_shape,
        options.normalization,
        options.weighting,
        options.advantage_scale,
        options.advantage_epsilon,
        options.min_axis_std,
        options.axis_std_floor,
    )


def _encode(policy: Policy, iteration: int, prompts: Any):
    uids, messages = [p.uid for p in prompts], [p.messages for p in prompts]
    return policy.encode_prompts(iteration, uids, messages, 64, [p.columns for p in prompts])


def tiny_trainer(
    folder: Path,
    every: int = 1,
    keep: int = 100,
    num_axes: int = 3,
    settings: DriftSettings = SENSITIVE,
    **kwargs: Any,
) -> L.Trainer:
    drift = DriftMonitor(settings, num_axes, folder)
    callbacks = [Invariants(folder), drift, *kwargs.pop("callbacks", [])]
    callbacks.append(IterationCheckpoint(folder / "checkpoints", every, keep))
    options = {"accelerator": "cpu", "devices": 1, **kwargs}
    return L.Trainer(
        max_epochs=1,
        log_every_n_steps=1,
        logger=[MetricsCSV(folder)],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=callbacks,
        default_root_dir=folder,
        **options,
    )


def contestants(module: GPRLModule) -> Contestants:
    """The module's policy and its reference, each with one short answer per prompt."""

    def sample(policy, batch, seed):
        return NativeSampler().sample(policy, batch, Sampling(1, 12), seed)

    def ratios(rollout):
        return log_ratios(module.policy, module.reference, module.algorithm, rollout)

    start = module.reference.module
    return Contestants(module.policy, start, sample, sample, ratios, lambda iteration: None)


def held_out(module: GPRLModule, judge: Judge) -> HeldOutEvaluation:
    """Two prompts, judged before training and after each iteration."""
    texts = ["hi", "sing"]
    prompts = [Prompt(i, ({"role": "user", "content": text},)) for i, text in enumerate(texts)]
    batches = [tiny_prompts(module.policy, texts)]
    return HeldOutEvaluation(prompts, batches, {"mine": judge}, contestants(module), every=1)
