"""The base of the records that one iteration passes along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, cast

from torch import Tensor


class TensorRecord:
    """A frozen dataclass whose tensors move together; Lightning calls `to` on each batch."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Return a copy on another device, or of another type, by the arguments of `Tensor.to`."""
        moved = {
            f.name: _moved(getattr(self, f.name), args, kwargs)
            for f in fields(self)  # type: ignore[arg-type]
        }
        return replace(self, **moved)  # type: ignore[type-var]


def _moved(value: Any, args: Any, kwargs: Any) -> Any:
    if isinstance(value, (Tensor, TensorRecord)):
        return value.to(*args, **kwargs)
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {name: _moved(part, args, kwargs) for name, part in items}
    return value
