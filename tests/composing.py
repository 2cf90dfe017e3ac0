"""Composes the configuration as the command line does, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import gprl_lightning.config.validation  # noqa: F401  # brings the schema that conf/ is held against
from tests.hydra_memory import remember

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"


remember(CONF)


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=hydra)


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def flat(cfg: DictConfig) -> dict[str, Any]:
    """Every leaf by its dotted key."""
    return dict(_leaves(OmegaConf.to_container(cfg, resolve=True), ""))


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, child in node.items():
            yield from _leaves(child, f"{key}.{name}".lstrip("."))
    else:
        yield key, node
