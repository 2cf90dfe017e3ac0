"""A section of the configuration: a dataclass whose types carry their ranges.

pydantic holds each value against its field's type when the section is made; the messages are ours.
A text in ``Annotated`` stands behind the range in the message, or in its place.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Interval, MinLen
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

from gprl_lightning.errors import ConfigError

Positive = Annotated[float, Interval(gt=0)]
NonNegative = Annotated[float, Interval(ge=0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
Inside = Annotated[float, Interval(gt=0, lt=1)]
BelowOne = Annotated[float, Interval(ge=0, lt=1)]
Count = Annotated[int, Interval(ge=1)]
Natural = Annotated[int, Interval(ge=0)]
Several = Annotated[int, Interval(ge=2)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
Rate = Annotated[float, Interval(gt=0, le=10)]  # of learning
Weight = Annotated[float, Interval(ge=0, le=10_000)]  # of a term of a loss
Gain = Annotated[float, Interval(ge=0, le=100)]  # in an exponent
Seconds = Annotated[float, Interval(ge=0, le=86_400)]
Text = Annotated[str, MinLen(1), "a text"]
Temperature = Annotated[float, Interval(ge=0.01, le=100), "beyond, it is greedy or noise"]

T = TypeVar("T")
NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass_transform(field_specifiers=(dataclasses.field,))
def section(key: str, frozen: bool = False) -> Callable[[type[T]], type[T]]:
    """Return the decorator that makes a class the section `key`, checked whenever one is made.

    OmegaConf knows neither Literal nor a union of kinds: it sees the plain types behind them.

    Raises:
        ConfigError: from the class, if a value is not what its field's type allows.
    """

    def checked(cls: type[T]) -> type[T]:
        made: Any = dataclass(cls, config=ConfigDict(strict=True, extra="forbid"), frozen=frozen)
        hints = get_type_hints(made, include_extras=True)
        made.__annotations__ = {name: plain(hint) for name, hint in hints.items()}
        build = made.__init__

        @functools.wraps(build)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                build(self, *args, **kwargs)
            except ValidationError as error:
                raise _as_ours(error, key, hints) from None

        made.__init__ = init
        return made

    return checked


def plain(hint: Any) -> Any:
    """Return the type behind `hint` as OmegaConf knows it; Any if it is of several kinds."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return plain(parts[0])
    if kind is Literal:
        return type(parts[0])
    if kind is list:
        return list[plain(parts[0])]
    if kind in (Union, types.UnionType):
        kinds = {plain(part) for part in parts} - {type(None)}
        one = kinds.pop() if len(kinds) == 1 else Any
        return one | None if type(None) in parts else one
    return hint


def expected(hint: Any) -> str:
    """Say what `hint` allows: ``in (0, 1]``, ``one of a | b``, ``> 0, or null``."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        ranges = [_range(limits) for limits in parts[1:] if isinstance(limits, Interval)]
        texts = [text for text in parts[1:] if isinstance(text, str)]
        return ": ".join(ranges + texts) or expected(parts[0])
    if kind is Literal:
        return "one of " * (len(parts) > 1) + " | ".join(map(str, parts))
    if kind in (Union, types.UnionType):
        return ", or ".join("null" if part is type(None) else expected(part) for part in parts)
    if kind is list:
        return f"a list, each {expected(parts[0])}"
    if dict in (kind, hint):
        return "a section of keys"
    return NAMES.get(hint) or (str(hint) if parts else getattr(hint, "__name__", str(hint)))


def _range(limits: Interval) -> str:
    low = limits.gt if limits.ge is None else limits.ge
    high = limits.lt if limits.le is None else limits.le
    if high is None:
        return f"{'>' if limits.ge is None else '>='} {low}"
    return f"in {'(' if limits.ge is None else '['}{low}, {high}{')' if limits.le is None else ']'}"


def _as_ours(error: ValidationError, key: str, hints: dict[str, Any]) -> ConfigError:
    """One line for each field; what takes several fields to see has its own message already."""
    lines: dict[str, str] = {}
    for found in error.errors(include_url=False):
        own = found.get("ctx", {}).get("error")
        if isinstance(own, ConfigError):
            return own
        name, *inner = found["loc"]
        place = f"{key}.{name}".lstrip(".") + "".join(f"[{i}]" for i in inner if type(i) is int)
        if name in hints:
            lines[place] = unlike(place, found["input"], expected(hints[str(name)]))
        else:
            lines[place] = f"{place}: there is no such key."
    return ConfigError("\n".join(lines.values()))


def unlike(key: str, found: Any, wanted: str) -> str:
    """Return the message for a value that is not as wanted."""
    return f"{key}={found!r}: expected {wanted}. Set such a value, or leave the key out."


def require(key: str, ok: bool, found: Any, wanted: str) -> None:
    """Raise ConfigError unless `ok`: for what takes several fields to see."""
    if not ok:
        raise ConfigError(unlike(key, found, wanted))
