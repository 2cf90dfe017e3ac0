"""Lets Hydra remember: a thousand compositions need not parse and merge the same files.

Interpolations and overrides are parsed once per text, files once, and each choice of files is
merged once; overrides of values are applied anew. What is remembered is given out as a copy, since
Hydra writes into it. `test_composing.py` holds it against a process that remembers nothing.
"""

from __future__ import annotations

import pickle
from copy import copy, deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, _utils, base, grammar_parser


def remember(conf: Path) -> None:
    """Let all compositions of this process from the folder `conf` share what they read."""
    _parse_each_text_once()
    _read_each_file_once(conf)
    _merge_each_choice_once(conf)
    _skip_what_is_not_used()


def _parse_each_text_once() -> None:
    interpolation = lru_cache(None)(grammar_parser.parse)
    for user_of_it in (base, _utils):
        setattr(user_of_it, "parse", interpolation)  # noqa: B010
    override = lru_cache(None)(OverridesParser.create().parse_rule)

    def parsed(self: OverridesParser, text: str, rule: str) -> Any:
        return deepcopy(override(text, rule))

    OverridesParser.parse_rule = parsed  # type: ignore[method-assign]


def _read_each_file_once(conf: Path) -> None:
    read, kept = ConfigRepository.load_config, {}

    def loaded(self: ConfigRepository, config_path: str) -> Any:
        if not _is_of(conf, self):
            return read(self, config_path)
        if config_path not in kept:
            kept[config_path] = pickle.dumps(read(self, config_path))
        return pickle.loads(kept[config_path])

    ConfigRepository.load_config = loaded  # type: ignore[method-assign]


def _merge_each_choice_once(conf: Path) -> None:
    merge, kept = ConfigLoaderImpl._compose_config_from_defaults_list, {}

    def merged(self: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> DictConfig:
        if not _is_of(conf, repo.delegate):
            return merge(self, defaults, repo)
        choice = tuple(map(repr, defaults))
        if choice not in kept:
            kept[choice] = pickle.dumps(merge(self, defaults, repo))
        return pickle.loads(kept[choice])

    ConfigLoaderImpl._compose_config_from_defaults_list = merged  # type: ignore[method-assign]


def _skip_what_is_not_used() -> None:
    """At each composition Hydra copies its sources, of which it then replaces the list, and at each
    file it makes a map for groups that interpolate, of which most files have none."""
    mapped = defaults_list._create_interpolation_map

    def where_needed(overrides: Any, defaults: list[Any], self_added: bool) -> DictConfig:
        if any(default.is_interpolation() for default in defaults):
            return mapped(overrides, defaults, self_added)
        return DictConfig({})

    defaults_list._create_interpolation_map = where_needed
    ConfigRepository.__deepcopy__ = lambda self, _: copy(self)  # type: ignore[attr-defined]


def _is_of(conf: Path, repository: ConfigRepository) -> bool:
    return [s.path for s in repository.sources if s.scheme() == "file"] == [str(conf)]
