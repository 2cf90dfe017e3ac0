"""Everything around the models: data, schedule, evaluation, folders; the whole configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from gprl_lightning.config.algorithm import AlgorithmConfig, DriftConfig, RolloutConfig
from gprl_lightning.config.benchmark import BenchmarkConfig, JudgeConfig
from gprl_lightning.config.checks import at_least, one_of, require
from gprl_lightning.config.detectors import DetectorStudyConfig
from gprl_lightning.config.models import (
    PolicyConfig,
    PreferenceModelConfig,
    PreferenceTrainingConfig,
)


@dataclass
class DataConfig:
    """The prompts. ``path`` is a JSONL or parquet file, a hub data set, or ``sandbox``."""

    path: str = "sandbox"
    split: str = "train"
    prompt_key: str = "prompt"  # a string, or a list of chat messages
    chosen_key: str = "chosen"  # preference pairs: strings, or lists of chat messages
    rejected_key: str = "rejected"
    label_key: str | None = None  # of pairs: probability that the chosen one is better; None: 1
    margin_key: str | None = None  # of pairs: by how much, in units of the score; None: 0
    system_prompt: str | None = None
    max_prompt_tokens: int = 512
    prompts_per_step: int = 8  # per process
    held_out_path: str | None = None  # None: the last `held_out` prompts of `path`
    held_out_split: str = "train"
    held_out: int = 200

    def __post_init__(self) -> None:
        at_least("data", self, 1, "max_prompt_tokens", "prompts_per_step")
        at_least("data", self, 0, "held_out")


@dataclass
class SchedulerConfig:
    """Learning-rate schedule over the run's optimiser steps, by its name in transformers."""

    name: str = "constant_with_warmup"
    warmup_fraction: float = 0.03

    def __post_init__(self) -> None:
        warmup = self.warmup_fraction
        require("scheduler.warmup_fraction", 0 <= warmup < 1, warmup, "in [0, 1)")


@dataclass
class EvaluationConfig:
    """Win rate on held-out prompts over the starting policy; the reward never sees the judge."""

    judge: str = "sandbox_gold"  # sandbox_gold | preference_model | none
    judges: dict[str, Any] = field(default_factory=dict)  # others by name, each with `_target_`
    every: int = 20  # iterations; also before the first and after the last
    prompts: int = 200
    batch_size: int | None = None  # answers sampled at once; null: as many as an iteration samples
    temperature: float = 1.0

    def __post_init__(self) -> None:
        judges = Literal["sandbox_gold", "preference_model", "none"]
        one_of("evaluation.judge", self.judge, judges)
        at_least("evaluation", self, 1, "every", "prompts", "batch_size")
        require("evaluation.temperature", self.temperature > 0, self.temperature, "> 0")


# What a resume compares beside the configuration; see `gprl_lightning.runtime.run_identity`.
RESUME_CONTENTS = ("data", "tokenizer", "policy", "preference_model", "processes")
# What ``resume.allow`` may name besides: rows of metrics.csv that are missing.
RESUME_ALLOWED = (*RESUME_CONTENTS, "metrics")


@dataclass
class ResumeConfig:
    """What may differ from the run that wrote the checkpoint in ``ckpt_path``."""

    allow: list[str] = field(default_factory=list)  # keys, sections, or contents, by their names


@dataclass
class PathsConfig:
    output: str = "runs"
    cache: str = ".cache/gprl"


@dataclass
class Config:
    """The whole configuration of ``train.py``."""

    # train_policy | train_preference_model | eval_preference_model | detector_study | benchmark
    task: str = "train_policy"
    name: str = "sandbox"
    seed: int = 0
    iterations: int = 80
    checkpoint_every: int = 20
    # The settings are the sandbox's: a policy, prompts or reward from elsewhere are refused
    sandbox_only: bool = False
    # Print what a run will hold in memory, or a benchmark's judge will cost, and stop
    plan: bool = False
    plan_memory_gb: float | None = None  # of the device to plan for; None: this machine's
    # A checkpoint or a run's folder to go on from; None: this run's own folder, if it has one
    ckpt_path: str | None = None
    threads: int | None = None  # of PyTorch on the CPU; None: PyTorch's own choice
    keep_freed_memory: bool = False  # for the next step, on a CPU; see `runtime.malloc`
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    objective: dict[str, Any] = field(default_factory=dict)  # `_target_`: `modules.parts.Parts` in
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    preference_model: PreferenceModelConfig = field(default_factory=PreferenceModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    preference_training: PreferenceTrainingConfig = field(default_factory=PreferenceTrainingConfig)
    detectors: DetectorStudyConfig = field(default_factory=DetectorStudyConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)

    def __post_init__(self) -> None:
        tasks = Literal[
            "train_policy",
            "train_preference_model",
            "eval_preference_model",
            "detector_study",
            "benchmark",
        ]
        one_of("task", self.task, tasks)
        plans = not self.plan or self.task in ("train_policy", "benchmark")
        require("plan", plans, self.plan, f"false for task={self.task}, which has no plan")
        require("plan_memory_gb", (self.plan_memory_gb or 1) > 0, self.plan_memory_gb, "> 0")
        at_least("", self, 1, "iterations", "checkpoint_every", "threads")
        require("seed", 0 <= self.seed < 2**32, self.seed, "in [0, 2**32)")
        require("name", bool(self.name) and "/" not in self.name, self.name, "a folder's name")
