"""The baselines on two real processes over gloo are the same run as on one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gprl_lightning.tracking.metrics_file import read_metrics
from tests.integration.run_pairs import METHODS, run
from tests.processes import run_world

SCRIPT = Path(__file__).with_name("run_pairs.py")
COMPARED = ("train/loss", "train/grad_norm", "train/entropy")


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """The results of both processes, of every method."""
    folder = tmp_path_factory.mktemp("two")
    run_world([str(SCRIPT), str(folder)], 2, folder)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_are_one_run(method, two, tmp_path):
    """Pairs, losses and gradients add up; the round's policy is the same on both."""
    first, second = (torch.load(two / f"rank{rank}.pt")[method] for rank in range(2))
    single = run(method, tmp_path, world=1)
    for name, weight in single.items():
        assert torch.equal(first[name], second[name]), name
        # The preference source computes in float32, in batches of another shape.
        assert torch.allclose(first[name], weight, rtol=1e-3, atol=1e-5), name
    one, both = read_metrics(tmp_path / "metrics.csv"), read_metrics(two / method / "metrics.csv")
    for name in COMPARED:
        assert both[name][1] == pytest.approx(one[name][1], rel=1e-5)
        assert len(both[name][1]) == 4 and any(one[name][1])
