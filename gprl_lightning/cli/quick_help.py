"""``--help`` without the time that Hydra spends on it."""

from __future__ import annotations

import sys

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType


def quicken_help() -> None:
    """List the groups from the one repository that is there, if the command line asks for help.

    Hydra copies its whole repository, searched folders and all, for each of the groups that the
    page lists: half of the command's time.
    """
    if {"--help", "-h"} & set(sys.argv):
        ConfigLoaderImpl.get_group_options = _group_options  # type: ignore[method-assign]


def _group_options(
    self: ConfigLoaderImpl,
    group_name: str,
    results_filter: ObjectType | None = ObjectType.CONFIG,
    config_name: str | None = None,
    overrides: list[str] | None = None,
) -> list[str]:
    return self.repository.get_group_options(group_name, results_filter)
