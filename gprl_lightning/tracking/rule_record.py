"""How a run's folder names its advantage rule, and how `cli.inspect` builds the rule again.

The record is a text such as ``{"_target_": "gprl_lightning.core.gprl_advantages.GPRLAdvantages",
"epsilon": 0.0001}``. A file must not say what code runs: a record builds rules of this package
alone, and the user names any other.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import import_module
from typing import Any

from gprl_lightning.core.advantage_rule import AdvantageRule

TARGET = "_target_"
PACKAGE = "gprl_lightning"


def rule_record(rule: AdvantageRule) -> str:
    """Return the dotted name of a rule, with the options of a dataclass or of a `partial`."""
    return json.dumps(_described(rule), default=repr)


def _described(rule: Any) -> dict[str, Any]:
    options: dict[str, Any] = {}
    named: Any = rule
    if isinstance(rule, partial):
        named, options = rule.func, dict(rule.keywords)
    elif is_dataclass(rule):
        values = {f.name: getattr(rule, f.name) for f in fields(rule)}
        # A rule around a rule, such as `core.overlong_filter`.
        options = {k: _described(v) if is_dataclass(v) else v for k, v in values.items()}
    if not hasattr(named, "__qualname__"):  # an object is known by its class
        named = type(named)
    return {TARGET: rule_name(named), **options}


def rule_name(named: Any) -> str:
    """Return the dotted name of a class or of a function."""
    return f"{named.__module__}.{named.__qualname__}"


def rule_of(record: str, name: str | None = None) -> AdvantageRule:
    """Build the rule of a record.

    Args:
        record: what `rule_record` returned.
        name: a rule's dotted name, the user's word, which replaces the record's. The record's
            options are used only if the record has the same name.

    Raises:
        LookupError: the record names a rule of another package and `name` is None, or there is no
            such rule.
    """
    return _built(json.loads(record), name)


def _built(options: dict[str, Any], name: str | None = None) -> AdvantageRule:
    target = str(options.pop(TARGET))
    inner = {k: v for k, v in options.items() if isinstance(v, dict) and TARGET in v}
    options |= {k: _built(v) for k, v in inner.items()}
    if name is None and not target.startswith(PACKAGE + "."):
        raise LookupError(
            f"the run's advantage rule is {target}: expected --rule {target}. A rule that is not "
            f"part of {PACKAGE} is run only if you name it."
        )
    found = _imported(name or target)
    if name is None and not _is_rule_class(found, target):
        raise LookupError(f"the run's advantage rule is {target}: expected a rule of {PACKAGE}.")
    if name is not None and name != target:
        options = {}
    try:
        if isinstance(found, type):
            return found(**options)
        return partial(found, **options) if options else found
    except TypeError as error:
        raise LookupError(f"--rule {name or target}: expected these options: {error}.") from error


def _is_rule_class(found: Any, target: str) -> bool:
    """Return True for a dataclass that the named module defines, not for what it imports."""
    return isinstance(found, type) and is_dataclass(found) and rule_name(found) == target


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise LookupError(
            f"--rule {name}: expected the dotted name of a rule, such as my_rules.by_rank, "
            f"whose folder is on PYTHONPATH; found: {error}."
        ) from error
