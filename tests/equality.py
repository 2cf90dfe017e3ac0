"""Where two nested states differ, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def differences(one: Any, two: Any, place: str = "") -> list[str]:
    """Paths at which two states of dicts, lists, tensors and numbers are not the same."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        keys = {*one, *two}
        missing = [f"{place}/{k}" for k in keys if k not in one or k not in two]
        both = [k for k in one if k in two]
        return missing + [d for k in both for d in differences(one[k], two[k], f"{place}/{k}")]
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)) and len(one) == len(two):
        pairs = enumerate(zip(one, two, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{place}/{i}")]
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        same = one.dtype == two.dtype and torch.equal(one, two)
    else:
        same = type(one) is type(two) and bool(one == two)
    return [] if same else [place]


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """12 digits of the SHA-256 of all weights' bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
