"""``offload``: which networks of a run wait on the CPU between their turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from gprl_lightning.config import Config
from gprl_lightning.core.iteration import Objective
from gprl_lightning.errors import ConfigError
from gprl_lightning.evaluation.judge import Judge, SourceJudge
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.runtime.offloading import offload
from gprl_lightning.tasks.evaluation import PROXY


def offload_networks(config: Config, module: Objective, judges: Mapping[str, Judge]) -> None:
    """Let what ``offload`` names stay on the CPU when the run's module is moved to its device.

    Raises:
        ConfigError: a name that stands for no network of this run.
    """
    for name in config.offload:
        owners = _judges(judges) if name == "judges" else [module.frozen.get(name)]
        networks = [network for owner in owners if owner is not None for network in _inside(owner)]
        if not networks:
            raise ConfigError(
                f"offload={config.offload}: expected networks with weights of their own; found "
                f"none under {name} in this run. Leave it out."
            )
        for network in networks:
            offload(network.requires_grad_(False))


def _judges(judges: Mapping[str, Judge]) -> list[nn.Module]:
    """Return what has weights among the judges, but for the reward, which is none of theirs."""
    own = (j.source for n, j in judges.items() if n != PROXY and isinstance(j, SourceJudge))
    return [source for source in own if isinstance(source, nn.Module)]


def _inside(owner: nn.Module) -> Iterable[nn.Module]:
    """Return what is held whole while it is at work: see `runtime.sharding.whole`."""
    return (m for m in owner.modules() if isinstance(m, (Policy, PreferenceModel)))
