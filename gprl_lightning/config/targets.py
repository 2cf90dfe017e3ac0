"""What is passed to a class by ``_target_``, held against the annotations of the class itself.

The free-form sections (an optimiser, a sampler, a logger, anything of a user's) have no schema of
ours. Called when torch is loaded, because it imports what the configuration names.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Iterator
from typing import Any, Literal, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError

from gprl_lightning.config.section import expected
from gprl_lightning.errors import ConfigError

# What an entry of a section must be a kind of, if it is a class.
KINDS = {
    "optimizer": "torch.optim.Optimizer",
    "trainer": "lightning.Trainer",
    "callbacks": "lightning.Callback",
    "logger": "lightning.pytorch.loggers.Logger",
}

# What Hydra reads of a section itself.
FLAGS = {
    "_partial_": bool,
    "_recursive_": bool,
    "_convert_": Literal["none", "partial", "object", "all"],
    "_args_": list[Any],
}


def check_targets(cfg: DictConfig) -> None:
    """Check the arguments of every ``_target_`` that can be imported; Hydra names the others.

    Arguments that are objects of their own, have no annotation, or one that says nothing of plain
    values, pass: the class itself has to check them.

    Raises:
        ConfigError: an argument is of another type than the class says.
    """
    for key, node in targets(OmegaConf.to_container(cfg, resolve=True)):
        name = node["_target_"]
        for flag, hint in FLAGS.items():
            if flag in node and not fits(hint, node[flag]):
                raise ConfigError(f"{key}.{flag}={node[flag]!r}: expected {expected(hint)}.")
        try:
            found = get_object(name)
        except Exception:  # Hydra says so when it builds it
            continue
        _check_kind(key, name, found)
        place = f"{key}.options" if key == "benchmark" else key  # whose other keys are ours
        for argument, value in (node["options"] if key == "benchmark" else node).items():
            hint = None if argument in FLAGS or argument == "_target_" else _hint(found, argument)
            if hint is not None and not _has_object(value) and not fits(hint, value):
                raise ConfigError(
                    f"{place}.{argument}={value!r}: expected {expected(hint)}, by the signature of "
                    f"{name}. Correct {place}.{argument}, or leave it out."
                )


def targets(node: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, section) of each section with a ``_target_``, those inside others too."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return
    if isinstance(node.get("_target_"), str) and node["_target_"]:
        yield key, node
    for name, child in node.items():
        yield from targets(child, f"{key}.{name}".lstrip("."))


def _check_kind(key: str, name: str, found: Any) -> None:
    wanted = KINDS.get(key.partition(".")[0])
    whole = key.count(".") == (key.partition(".")[0] in ("callbacks", "logger"))
    if wanted and whole and isinstance(found, type) and not issubclass(found, get_object(wanted)):
        raise ConfigError(
            f"{key}._target_={name}: expected a kind of {wanted}; found another class. Correct "
            f"{key}._target_."
        )


def _hint(found: Any, argument: str) -> Any:
    """The annotation of an argument, evaluated; None if there is none that can be."""
    try:
        parameter = inspect.signature(found).parameters[argument]
    except (KeyError, TypeError, ValueError):  # also one of the ``**keywords``
        return None
    if parameter.annotation is parameter.empty:
        return None
    function = inspect.unwrap(found.__init__ if isinstance(found, type) else found)
    holder = types.SimpleNamespace(__annotations__={argument: parameter.annotation})
    try:
        names = getattr(function, "__globals__", {})
        return get_type_hints(holder, names, include_extras=True)[argument]
    except (NameError, TypeError, AttributeError, SyntaxError):
        return None


def _has_object(value: Any) -> bool:
    return next(targets(value), None) is not None


def fits(hint: Any, value: Any) -> bool:
    """Return True if a value of YAML is of the type: strictly, so that "false" is no bool.

    By the rules for JSON, which has lists where Python has tuples and sets.
    """
    adapter = _adapter(hint)
    if adapter is None:
        return True
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    return True


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """None if pydantic cannot say what the type is."""
    try:
        return TypeAdapter(hint, config={"arbitrary_types_allowed": True})
    except Exception:  # whatever an annotation of a user's does
        return None
