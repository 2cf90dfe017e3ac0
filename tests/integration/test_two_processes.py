"""Two real processes over gloo: one run, and one that can be resumed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gprl_lightning.tracking.rollout_log import RULE, LoggedRollout
from gprl_lightning.tracking.rule_record import rule_of
from tests.equality import differences
from tests.worlds import SIZE

SCRIPT = Path(__file__).with_name("run_tiny.py")
OPTIONS = ("per_axis_whitened", "matched")


def _run(folder: Path, world: int, *options: str) -> list[dict]:
    folder.mkdir()
    command = [sys.executable, str(SCRIPT), str(folder), str(world), str(4 // world), *options]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{r}.pt", weights_only=False) for r in range(world)]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[list[dict], Path]:
    folder = tmp_path_factory.mktemp("two") / "run"
    return _run(folder, 2, *OPTIONS), folder


def test_two_processes_are_one_run(two, tmp_path):
    """Batch statistics, loss normalisers, gradients and drift moments add up over processes."""
    (single,) = _run(tmp_path / "one", 1, *OPTIONS)
    first, second = two[0]
    assert first["state"] == second["state"]
    assert torch.equal(first["control"], second["control"])
    assert first["kl"] == second["kl"] != 0.02, "the controller must have acted"
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name
        assert torch.allclose(weight, single["weights"][name], rtol=1e-3, atol=1e-5), name


def test_the_table_of_responses_is_of_both_processes(two):
    """Whitening is over the batch of all processes: half of the rows give other advantages."""
    logged = LoggedRollout.read(two[1], 4)
    assert logged.advantages.shape == (4, SIZE)
    assert len({row["uid"] for row in logged.rows}) == 4
    rule = rule_of(logged.rows[0][RULE])
    assert (logged.rederived(rule) - logged.advantages).abs().max() <= 1e-6
    half = LoggedRollout.from_rows(logged.rows[: 2 * SIZE])
    assert (half.rederived(rule) - half.advantages).abs().max() > 1e-3


def test_a_resume_on_two_processes_is_bit_equal(two, tmp_path):
    """Each process gets back its own anchors, which came from batches of its own."""
    whole, folder = two
    checkpoint = folder / "checkpoints" / "iteration_000002.ckpt"
    again = _run(tmp_path / "again", 2, *OPTIONS, str(checkpoint))
    for before, after in zip(whole, again, strict=True):
        assert differences(before, after) == []
    assert whole[0]["anchors"].keys() != whole[1]["anchors"].keys()
