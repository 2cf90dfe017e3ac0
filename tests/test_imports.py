"""Imports run one way between the rooms of the package, and the pure core loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gprl_lightning"
# From the ground up; a room may import those on lower floors, and no other.
FLOORS = (
    {"errors", "core"},
    {"config"},
    {"runtime"},
    {"tracking"},
    {"models"},
    {"rollout", "data"},
    {"evaluation", "modules", "callbacks"},
    {"sandbox"},
    {"tasks"},
    {"study", "benchmarks"},
    {"cli"},
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
# Inside one floor, what is not on two sides: a callback may compute win rates.
SAME_FLOOR = {("callbacks", "evaluation")}
# What a room must not load, besides rooms above it.
NOT_LOADED = {
    "core": {"lightning", "transformers", "hydra", "omegaconf"},
    "config": {"lightning", "transformers", "torch"},
    "models": {"lightning", "hydra"},
    "rollout": {"lightning", "hydra"},
    "data": {"hydra"},
    "modules": {"hydra"},
    "callbacks": {"hydra"},
}
ROOMS = sorted(FLOOR)


def _rooms_in_the_package() -> set[str]:
    folders = {f.name for f in PACKAGE.iterdir() if (f / "__init__.py").exists()}
    files = {f.stem for f in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    return folders | files


def _imported(file: Path) -> set[str]:
    """Top-level packages that a file imports, and rooms of this one, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "gprl_lightning":
                names |= {f"gprl_lightning.{alias.name}" for alias in node.names}
    parts = {n.removeprefix("gprl_lightning.").split(".")[0] for n in names}
    return parts - {"gprl_lightning"}


def _files(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]


def _allowed(room: str, other: str) -> bool:
    return other == room or FLOOR[other] < FLOOR[room] or (room, other) in SAME_FLOOR


def _backwards(room: str, imported: set[str]) -> set[str]:
    rooms = {other for other in imported & FLOOR.keys() if not _allowed(room, other)}
    return rooms | imported & NOT_LOADED.get(room, set())


def test_every_room_has_a_floor():
    assert _rooms_in_the_package() == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    found = {f.name: sorted(_backwards(room, _imported(f))) for f in _files(room)}
    assert not {name: bad for name, bad in found.items() if bad}


@pytest.mark.parametrize("room", [r for r in ROOMS if r != "errors"])
def test_each_room_says_what_lives_there_and_what_it_may_import(room):
    doc = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
    assert len(doc.split("\n\n")) >= 2
    assert "May import" in doc


def test_the_check_sees_a_forbidden_import(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from gprl_lightning.modules.gprl import GPRLModule\n")
    assert _backwards("callbacks", _imported(file)) == {"modules"}
    assert _backwards("rollout", _imported(file)) == {"modules"}
    assert _backwards("tasks", _imported(file)) == set()


def test_the_core_loads_neither_lightning_nor_transformers():
    code = (
        "import sys, gprl_lightning.core.advantages as _\n"
        "print(sorted({'lightning', 'transformers', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
