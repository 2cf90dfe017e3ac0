"""What every section of the configuration checks its values with."""

from __future__ import annotations

from typing import Any, get_args

from gprl_lightning.errors import ConfigError


def require(key: str, ok: bool, found: Any, expected: str) -> None:
    if not ok:
        raise ConfigError(
            f"{key}={found!r}: expected {expected}. Set such a value, or leave the key out."
        )


def one_of(key: str, value: str, literal: Any) -> None:
    require(key, value in get_args(literal), value, "one of " + " | ".join(get_args(literal)))


def at_least(section: str, config: Any, low: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        key = f"{section}.{name}" if section else name
        require(key, value is None or value >= low, value, f">= {low}")
