"""Ranges of the options that a rule or a loss is made with."""

from __future__ import annotations


def require_range(key: str, ok: bool, found: object, expected: str) -> None:
    """Raise ValueError, with the key of the configuration, unless `ok`."""
    if not ok:
        raise ValueError(f"{key}={found!r}: expected {expected}.")


def require_epsilon(found: float) -> None:
    """Raise ValueError unless the ε of an advantage rule is in (0, 1]."""
    require_range("algorithm.advantage.epsilon", 0 < found <= 1, found, "a number in (0, 1]")
