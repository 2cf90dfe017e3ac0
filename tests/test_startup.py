"""What a start must not load: every package here costs a tenth of a second to seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.composing import ROOT

NEVER_AT_START = ("datasets", "trl", "vaderSentiment", "requests", "pandas", "scipy", "wandb")
# Of a run, with all that only a run needs.
HEAVY = ("torch", "transformers", "lightning", "numpy", "matplotlib", "peft", "rich")


def loaded_by(statement: str, names: tuple[str, ...]) -> list[str]:
    """Which of `names` a fresh process has loaded after `statement`."""
    code = (
        f"{statement}\nimport json, sys\n"
        f"print(json.dumps([name for name in {names} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "statement",
    [
        "import gprl_lightning",
        # all that train.py has loaded when the configuration is composed and checked
        "import gprl_lightning.cli.entry, gprl_lightning.config.validation",
    ],
)
def test_a_start_loads_nothing_heavy(statement):
    assert loaded_by(statement, HEAVY + NEVER_AT_START) == []


def test_a_report_loads_no_learning():
    found = loaded_by("import gprl_lightning.cli.report", HEAVY + NEVER_AT_START)
    assert sorted(found) == ["matplotlib", "numpy"]


def test_a_run_does_not_load_what_it_may_never_need():
    assert loaded_by("import gprl_lightning.tasks.train_policy", NEVER_AT_START) == []


def test_the_check_sees_what_is_loaded():
    assert loaded_by("import gprl_lightning.core.losses", HEAVY) == ["torch", "numpy"]


def test_wandb_starts_without_its_launch(tmp_path):
    statement = (
        "from gprl_lightning.tracking.wandb_logger import GPRLWandbLogger\n"
        f"logger = GPRLWandbLogger({str(tmp_path)!r}, mode='offline')\n"
        "logger.log_metrics({'loss': 1.0}, 1)\n"
        "logger.close(0)"
    )
    assert loaded_by(statement, ("wandb", "wandb.sdk.launch")) == ["wandb"]


def test_the_garbage_collector_rests_during_the_first_imports_only():
    code = """
import gc, json
from gprl_lightning.cli import entry as cli
with cli.first_imports():
    first = gc.isenabled()
    import torch
after, frozen = gc.isenabled(), gc.get_freeze_count()
with cli.first_imports():
    later = gc.isenabled()
print(json.dumps([first, after, later, frozen > 10_000, gc.get_freeze_count() == frozen]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [False, True, True, True, True]
