"""Everything around the models: data, schedule, evaluation, folders; the whole configuration."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from annotated_types import Interval
from pydantic import StringConstraints

from gprl_lightning.config.algorithm import AlgorithmConfig, DriftConfig, RolloutConfig
from gprl_lightning.config.benchmark import BenchmarkConfig, JudgeConfig
from gprl_lightning.config.best_of_n import BestOfNConfig
from gprl_lightning.config.detectors import DetectorStudyConfig
from gprl_lightning.config.judging import judge_specs
from gprl_lightning.config.models import (
    PolicyConfig,
    PreferenceModelConfig,
    PreferenceTrainingConfig,
)
from gprl_lightning.config.sandbox import SandboxConfig
from gprl_lightning.config.section import (
    BelowOne,
    Count,
    Natural,
    Positive,
    Seed,
    Temperature,
    Text,
    require,
    section,
)
from gprl_lightning.core.options import Schedule

Task = Literal[
    "train_policy",
    "train_preference_model",
    "eval_preference_model",
    "best_of_n",
    "detector_study",
    "benchmark",
]
Threads = Annotated[int, Interval(ge=1, le=1024)]
Folder = Annotated[str, StringConstraints(pattern=r"^[^/.\x00][^/\x00]*$"), "a folder's name"]


@section("data")
class DataConfig:
    """The prompts. ``path`` is a JSONL or parquet file, a hub data set, or ``sandbox``."""

    path: Text = "sandbox"
    split: Text = "train"
    prompt_key: Text = "prompt"  # a string, or a list of chat messages
    chosen_key: Text = "chosen"  # preference pairs: strings, or lists of chat messages
    rejected_key: Text = "rejected"
    label_key: Text | None = None  # of pairs: probability that the chosen one is better; None: 1
    margin_key: Text | None = None  # of pairs: by how much, in units of the score; None: 0
    subset_key: Text | None = None  # of pairs: by which reports are split; None: subset, or source
    rating_key: Text = "helpfulness"  # of rated responses: which of two is the better one
    system_prompt: Text | None = None
    max_prompt_tokens: Count = 512
    prompts_per_step: Count = 8  # per process
    max_rows: Count | None = None  # train on the first so many prompts or pairs; None: all
    held_out_path: Text | None = None  # None: the last `held_out` prompts of `path`
    held_out_split: Text = "train"
    held_out: Natural = 200


@section("scheduler")
class SchedulerConfig:
    """Learning-rate schedule over the run's optimiser steps, by its name in transformers."""

    name: Schedule = "constant_with_warmup"
    warmup_fraction: BelowOne = 0.03


@section("evaluation")
class EvaluationConfig:
    """Win rate on held-out prompts over the starting policy; the reward never sees the judge."""

    # sandbox_gold | preference_model | model | endpoint | none, a Python function by its dotted
    # name, or `_target_`; see `config.judging`
    judge: Any = "sandbox_gold"
    judge_path: Text | None = None  # of evaluation.judge=model
    judge_url: Text | None = None  # of evaluation.judge=endpoint: up to and including /v1
    judge_model: Text | None = None  # the name that the endpoint knows its model by
    judge_api_key_env: Text | None = None  # the environment variable that holds its API key
    judges: dict[str, Any] = field(default_factory=dict)  # others by name, in the same forms
    every: Count = 20  # iterations; also before the first and after the last
    prompts: Count = 200
    # Answers sampled at once; null: as many as an iteration samples
    batch_size: Count | None = None
    temperature: Temperature = 1.0

    def __post_init__(self) -> None:
        judge_specs(self)


# What a resume compares beside the configuration; see `gprl_lightning.runtime.run_identity`.
RESUME_CONTENTS = ("data", "tokenizer", "policy", "preference_model", "processes")
# What ``resume.allow`` may name besides: rows of metrics.csv that are missing.
RESUME_ALLOWED = (*RESUME_CONTENTS, "metrics")


@section("resume")
class ResumeConfig:
    """What may differ from the run that wrote the checkpoint in ``ckpt_path``."""

    allow: list[Text] = field(default_factory=list)  # keys, sections, or contents, by their names


@section("paths")
class PathsConfig:
    output: Text = "runs"
    cache: Text = ".cache/gprl"


@section("")
class Config:
    """The whole configuration of ``train.py``."""

    task: Task = "train_policy"
    name: Folder = "sandbox"
    seed: Seed = 0
    iterations: Count = 80
    checkpoint_every: Count = 20
    # The settings are the sandbox's: a policy, prompts or reward from elsewhere are refused
    sandbox_only: bool = False
    # Print what a run will hold in memory, or a benchmark's judge will cost, and stop
    plan: bool = False
    plan_memory_gb: Positive | None = None  # of the device to plan for; None: this machine's
    # A checkpoint or a run's folder to go on from; None: this run's own folder, if it has one
    ckpt_path: Text | None = None
    threads: Threads | None = None  # of PyTorch on the CPU; None: PyTorch's own choice
    # Networks that wait on the CPU between their turns: reference, preference_model, judges
    offload: list[Text] = field(default_factory=list)
    peer_timeout: Positive = 600.0  # seconds that one process of several may be waited for
    keep_freed_memory: bool = False  # for the next step, on a CPU; see `runtime.malloc`
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    objective: dict[str, Any] = field(default_factory=dict)  # `_target_`: `modules.parts.Parts` in
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    preference_model: PreferenceModelConfig = field(default_factory=PreferenceModelConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    preference_training: PreferenceTrainingConfig = field(default_factory=PreferenceTrainingConfig)
    best_of_n: BestOfNConfig = field(default_factory=BestOfNConfig)
    detectors: DetectorStudyConfig = field(default_factory=DetectorStudyConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)

    def __post_init__(self) -> None:
        plans = not self.plan or self.task in ("train_policy", "benchmark")
        require("plan", plans, self.plan, f"false for task={self.task}, which has no plan")
