"""The base of the records that one iteration passes along."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from gprl_lightning.core.transfers import fetched, sent


class TensorRecord:
    """A frozen dataclass whose tensors move together; Lightning calls `to` on each batch."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Return a copy on another device, or of another type, by the arguments of `Tensor.to`."""
        moved = {
            f.name: _moved(getattr(self, f.name), args, kwargs)
            for f in fields(self)  # type: ignore[arg-type]
        }
        return replace(self, **moved)  # type: ignore[type-var]

    def on_host(self) -> Any:
        """Return a copy on the CPU, by one wait for the device."""
        held: list[Tensor] = []
        _replaced(self, lambda tensor: held.append(tensor) or tensor)
        if all(tensor.device.type == "cpu" for tensor in held):
            return self
        found = iter(fetched(held))
        return _replaced(self, lambda _: next(found))


def _replaced(value: Any, new: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return new(value)
    if isinstance(value, TensorRecord):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}  # type: ignore[arg-type]
        return replace(value, **{name: _replaced(part, new) for name, part in parts.items()})  # type: ignore[type-var]
    if isinstance(value, Mapping):
        return {k: _replaced(v, new) for k, v in cast("Mapping[str, Any]", value).items()}
    return value


def _moved(value: Any, args: Any, kwargs: Any) -> Any:
    if isinstance(value, Tensor) and len(args) == 1 and isinstance(args[0], torch.device):
        return sent(value, args[0])
    if isinstance(value, (Tensor, TensorRecord)):
        return value.to(*args, **kwargs)
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {name: _moved(part, args, kwargs) for name, part in items}
    return value
