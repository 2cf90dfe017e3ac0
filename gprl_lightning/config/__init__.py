"""The schema of the configuration: what each option means, its default, and its range.

Hydra composes the YAML files of ``conf/`` onto these dataclasses, so a mistyped key or a value of
the wrong type is refused by name. A field's type carries its range, which pydantic checks
(`config.section`); what takes two options to see is in `config.cross_checks`, what a free-form
section passes on in `config.targets`. Every `[C]` of the method (a choice of ours, where the paper
is silent) is a field here, with the default that README lists.

May import `errors` and `core.options`: no torch, so that ``--help`` is quick.
"""

from gprl_lightning.config.algorithm import AlgorithmConfig, DriftConfig, RolloutConfig
from gprl_lightning.config.benchmark import BenchmarkConfig, JudgeConfig
from gprl_lightning.config.best_of_n import BestOfNConfig
from gprl_lightning.config.detectors import DetectorStudyConfig
from gprl_lightning.config.models import (
    LoraConfig,
    PolicyConfig,
    PreferenceModelConfig,
    PreferenceTrainingConfig,
)
from gprl_lightning.config.run import (
    Config,
    DataConfig,
    EvaluationConfig,
    PathsConfig,
    ResumeConfig,
    SchedulerConfig,
)
from gprl_lightning.config.sandbox import SandboxConfig

__all__ = [
    "AlgorithmConfig",
    "BenchmarkConfig",
    "BestOfNConfig",
    "Config",
    "DataConfig",
    "DetectorStudyConfig",
    "DriftConfig",
    "EvaluationConfig",
    "JudgeConfig",
    "LoraConfig",
    "PathsConfig",
    "PolicyConfig",
    "PreferenceModelConfig",
    "PreferenceTrainingConfig",
    "ResumeConfig",
    "RolloutConfig",
    "SandboxConfig",
    "SchedulerConfig",
]
