"""What a preference model's config.json says about its head and text, checked like our own keys."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from gprl_lightning.core.options import EigenvalueScale, Kind, L2Scope, Values
from gprl_lightning.models.network_files import CheckpointError

SETTINGS = "preference_model"  # the key in config.json
CHOICES = {
    "kind": get_args(Kind),
    "eigenvalue_scale": get_args(EigenvalueScale),
    "l2_scope": get_args(L2Scope),
    "text_format": ("gpm", "chat"),
    "values": get_args(Values),
}
FLAGS = ("l2_normalize", "gated")
POSITIVE = ("tau", "gate_temperature")
COUNTS = ("num_axes", "max_tokens")
KNOWN = (*CHOICES, *FLAGS, *POSITIVE, *COUNTS, "rotation", "attributes")
LARGEST, SMALLEST = 1e6, 1e-6  # of a temperature: beyond, a sigmoid or softmax is a step or flat


def checked_settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a model's config.json; {} where it has none, as published models.

    Raises:
        CheckpointError: a value of another type or range, or a key that is a known one, mistyped.
    """
    settings = config.get(SETTINGS, {})
    where = f"preference_model.path={str(folder)!r}: {SETTINGS} in config.json"
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{where}: expected an object; found {settings!r}. Correct it.")
    for name, value in settings.items():
        expected = _expected(name, value)
        if expected:
            raise CheckpointError(
                f"{where}: expected {expected} as {name}; found {value!r}. Correct it."
            )
        near = difflib.get_close_matches(name, KNOWN, 1, 0.8) if name not in KNOWN else []
        if near:
            raise CheckpointError(
                f"{where}: there is no such key as {name}. Did you mean {near[0]}?"
            )
    return dict(settings)


def _expected(name: str, value: Any) -> str | None:
    """What a value ought to be; None where it is."""
    if value is None or name not in KNOWN:
        return None
    if name in CHOICES:
        return None if value in CHOICES[name] else "one of " + " | ".join(CHOICES[name])
    if name in FLAGS:
        return None if isinstance(value, bool) else "true or false"
    if name == "attributes":
        texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
        return None if texts else "a list of names"
    if name == "rotation":
        return None if _is_unitary(value) else "a unitary matrix, rows of [real, imaginary]"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in COUNTS:
        return None if number and value == int(value) and value >= 1 else "a count >= 1"
    sound = number and math.isfinite(value) and SMALLEST <= value <= LARGEST
    return None if sound else f"a number in [{SMALLEST:g}, {LARGEST:g}]"


def _is_unitary(value: Any) -> bool:
    try:
        matrix = torch.view_as_complex(torch.tensor(value, dtype=torch.float64))
        return bool((matrix @ matrix.mH - torch.eye(len(matrix))).abs().max() < 1e-6)
    except (TypeError, ValueError, RuntimeError):
        return False
