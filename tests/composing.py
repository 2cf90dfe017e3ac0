"""Composes the configuration as the command line does, in this process."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_repository import ConfigRepository
from omegaconf import DictConfig, OmegaConf, _utils, base, grammar_parser

import gprl_lightning.config.validation  # noqa: F401  # brings the schema that conf/ is held against

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"


def _read_each_file_once() -> None:
    """A thousand compositions need not parse the same YAML and the same interpolations.

    Hydra writes into the files that it has loaded: it gets a copy each time.
    """
    parse = lru_cache(grammar_parser.parse)
    for user_of_it in (base, _utils):
        setattr(user_of_it, "parse", parse)  # noqa: B010
    load, loaded = ConfigRepository.load_config, {}

    def remembered(self: ConfigRepository, config_path: str) -> Any:
        places = [source.path for source in self.sources if source.scheme() == "file"]
        if places != [str(CONF)]:
            return load(self, config_path)
        if config_path not in loaded:
            loaded[config_path] = pickle.dumps(load(self, config_path))
        return pickle.loads(loaded[config_path])

    ConfigRepository.load_config = remembered  # type: ignore[method-assign]


_read_each_file_once()


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
