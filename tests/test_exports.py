"""What the package exports is there, its examples are true, and its docs cite what exists."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

import gprl_lightning

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "gprl_lightning").rglob("*.py")
    if ">>> " in path.read_text() and path.name != "__init__.py"
)
TEXTS = [
    *(ROOT / "gprl_lightning").rglob("*.py"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "conf").rglob("*.yaml"),
    *(ROOT / "examples").rglob("*.py"),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]


@pytest.mark.parametrize("name", gprl_lightning.__all__)
def test_every_name_is_there(name):
    assert getattr(gprl_lightning, name).__doc__


def test_each_name_says_where_it_lives():
    assert set(gprl_lightning.__all__) == set(gprl_lightning._WHERE)


@pytest.mark.parametrize("name", ["gprl_lightning", *MODULES])
def test_its_examples_are_true(name):
    found = doctest.testmod(import_module(name))
    assert found.attempted >= 1 and found.failed == 0


def exists(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return part in getattr(found, "__annotations__", {})
            found = getattr(found, part)
        return True
    return False


def cited() -> set[tuple[str, str]]:
    names = set()
    for path in TEXTS:
        text, place = path.read_text(), str(path.relative_to(ROOT))
        rooms = r"`((?:core|models|modules|rollout|data|evaluation|tasks)/\w+(?:\.\w+)+)`"
        names |= {(place, name) for name in re.findall(r"`(gprl_lightning(?:\.\w+)+)`", text)}
        names |= {
            (place, "gprl_lightning." + name.replace("/", "."))
            for name in re.findall(rooms, text)
            if not name.endswith(".py")
        }
    return names


def test_docs_cite_only_what_exists():
    names = cited()
    assert len(names) > 20
    assert not [(place, name) for place, name in names if not exists(name)]
