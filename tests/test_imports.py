"""Imports run one way, and the pure core loads nothing heavy."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gprl_lightning"
# For each part of the package, the parts that it must not know.
FORBIDDEN = {
    "core": {
        "models", "rollout", "data", "evaluation", "modules", "callbacks", "sandbox", "training",
        "config", "metrics", "loggers", "lightning", "transformers", "hydra", "omegaconf",
    },
    "models": {"modules", "callbacks", "training", "rollout", "evaluation", "lightning", "hydra"},
    "rollout": {"modules", "callbacks", "training", "evaluation", "lightning", "hydra"},
    "data": {"modules", "callbacks", "training", "rollout", "hydra"},
    "evaluation": {"modules", "callbacks", "training", "hydra"},
    "modules": {"callbacks", "training", "hydra"},
    "callbacks": {"modules", "training", "hydra"},
}  # fmt: skip


def _imported(file: Path) -> set[str]:
    """Top-level packages that a file imports, and parts of this one, wherever in the file."""
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


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_run_one_way(part):
    files = sorted((PACKAGE / part).rglob("*.py"))
    assert len(files) > 1
    found = {f.name: sorted(_imported(f) & FORBIDDEN[part]) for f in files}
    assert not {name: bad for name, bad in found.items() if bad}


def test_the_check_sees_a_forbidden_import(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from gprl_lightning.modules.gprl import GPRLModule\n")
    assert _imported(file) & FORBIDDEN["callbacks"] == {"modules"}
