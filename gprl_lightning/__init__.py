"""General Preference Reinforcement Learning (arXiv 2605.18721) on PyTorch Lightning.

What a run by hand is made of can be imported from here; each name is loaded on first use, so that
``import gprl_lightning`` and ``--help`` stay quick.

>>> import gprl_lightning as gprl
>>> gprl.Sampling(group_size=4, max_new_tokens=24).temperature
1.0
>>> gprl.Clip(epsilon=0.2).reach
'token'
>>> def brevity(prompts, completions, **columns):
...     return [-float(len(text)) for text in completions]
>>> gprl.FunctionRewards([brevity]).axes
('brevity',)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gprl_lightning.callbacks.drift_monitor import DriftMonitor
    from gprl_lightning.callbacks.evaluation import HeldOutEvaluation
    from gprl_lightning.callbacks.invariants import Invariants
    from gprl_lightning.callbacks.iteration_checkpoint import IterationCheckpoint
    from gprl_lightning.config import AlgorithmConfig, PolicyConfig, SchedulerConfig
    from gprl_lightning.core.batch import Prompt
    from gprl_lightning.core.gprl_advantages import GPRLAdvantages
    from gprl_lightning.core.policy_loss import CISPO, Clip
    from gprl_lightning.data.prompts import PromptLoader
    from gprl_lightning.models.builtin import policy_folder
    from gprl_lightning.models.function_rewards import FunctionRewards
    from gprl_lightning.models.policy import load_policy, reference_of
    from gprl_lightning.models.pretrained_preference import load_preference_model
    from gprl_lightning.modules.gprl import GPRLModule
    from gprl_lightning.modules.objective import PolicyObjective
    from gprl_lightning.modules.parts import Parts, encode
    from gprl_lightning.rollout.native import NativeSampler
    from gprl_lightning.rollout.sampler import Sampling

_WHERE = {
    "AlgorithmConfig": "config",
    "CISPO": "core.policy_loss",
    "Clip": "core.policy_loss",
    "DriftMonitor": "callbacks.drift_monitor",
    "FunctionRewards": "models.function_rewards",
    "GPRLAdvantages": "core.gprl_advantages",
    "GPRLModule": "modules.gprl",
    "HeldOutEvaluation": "callbacks.evaluation",
    "Invariants": "callbacks.invariants",
    "IterationCheckpoint": "callbacks.iteration_checkpoint",
    "NativeSampler": "rollout.native",
    "Parts": "modules.parts",
    "PolicyConfig": "config",
    "PolicyObjective": "modules.objective",
    "Prompt": "core.batch",
    "PromptLoader": "data.prompts",
    "Sampling": "rollout.sampler",
    "SchedulerConfig": "config",
    "encode": "modules.parts",
    "load_policy": "models.policy",
    "load_preference_model": "models.pretrained_preference",
    "policy_folder": "models.builtin",
    "reference_of": "models.policy",
}

__all__ = [
    "CISPO",
    "AlgorithmConfig",
    "Clip",
    "DriftMonitor",
    "FunctionRewards",
    "GPRLAdvantages",
    "GPRLModule",
    "HeldOutEvaluation",
    "Invariants",
    "IterationCheckpoint",
    "NativeSampler",
    "Parts",
    "PolicyConfig",
    "PolicyObjective",
    "Prompt",
    "PromptLoader",
    "Sampling",
    "SchedulerConfig",
    "encode",
    "load_policy",
    "load_preference_model",
    "policy_folder",
    "reference_of",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"gprl_lightning.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
