"""What made a run: its configuration, command, code and package versions, saved beside its
results."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "gprl-lightning", "torch", "lightning", "transformers", "hydra-core", "wandb", "torchmetrics",
)  # fmt: skip


def provenance() -> dict[str, Any]:
    """Return the exact command, the git commit (with ``-dirty`` where files are changed) and
    versions."""
    return {
        "command": [sys.executable, *sys.argv],
        "git_commit": _git_commit(Path(__file__).resolve().parent),
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit(folder: Path) -> str | None:
    """The commit of the source tree, or None for an installed package."""
    command = [
        "git",
        "-C",
        str(folder),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2, default=str) + "\n")
    partial.replace(file)
