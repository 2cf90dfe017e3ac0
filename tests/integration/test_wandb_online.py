"""Online runs on a server on this machine: one that works, is slow, is down, or goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gprl_lightning.callbacks.rollout_table import RolloutTable
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.wandb_backend import WandbBackend
from tests.wandb_log import read_offline_run
from tests.wandb_runs import (
    CONFIG,
    check_history,
    new_machine,
    offline_run,
    wandb_run,
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[None]:
    with new_machine(tmp_path / "home", {}):
        yield


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[WandbBackend]:
    folder = tmp_path / "home"
    with WandbBackend() as server, new_machine(folder, server.environment(folder)):
        yield server
        assert server.state.unknown == []


def test_an_online_run_arrives(backend, tmp_path):
    wandb_run(tmp_path / "run", mode="online", group="a group", tags=["one"])
    (run,) = backend.state.runs.values()
    assert run.exit_code == 0
    assert run.about["displayName"] == "run" and run.about["groupName"] == "a group"
    assert {key: run.config[key] for key in CONFIG} == CONFIG
    assert run.config["provenance"]["versions"]["wandb"]
    check_history(tmp_path / "run", run)
    assert run.summary[metrics.LOSS] == run.values(metrics.LOSS)[-1]
    uploaded = [name.split("/", 1)[1] for name in backend.files]
    assert sum(name.startswith("media/table/rollout/responses") for name in uploaded) == 3
    assert sum(name.startswith("media/images/rollout/win_probability") for name in uploaded) == 3
    assert sum(name.startswith("media/table/drift/interventions") for name in uploaded) == 1


@pytest.mark.slow
def test_two_online_runs_of_one_process_are_two(backend, tmp_path):
    for name in ("first", "second"):
        wandb_run(tmp_path / name, iterations=2, mode="online")
    first, second = backend.state.runs.values()
    assert [first.about["displayName"], second.about["displayName"]] == ["first", "second"]
    assert first.exit_code == second.exit_code == 0
    check_history(tmp_path / "first", first, 2)
    check_history(tmp_path / "second", second, 2)


@pytest.mark.slow
def test_a_slow_service_costs_no_metric(backend, tmp_path):
    backend.delay = 0.5
    wandb_run(tmp_path / "run", iterations=2, mode="online")
    (run,) = backend.state.runs.values()
    check_history(tmp_path / "run", run, 2)


@pytest.mark.slow
def test_a_service_that_is_down_makes_the_run_an_offline_one(backend, tmp_path, capsys):
    backend.stop()
    with pytest.warns(UserWarning, match="did not start, so this run is offline"):
        wandb_run(tmp_path / "run", iterations=2, mode="online", init_timeout=1)
    run = offline_run(tmp_path)
    assert run.exit_code == 0
    check_history(tmp_path / "run", run, 2)
    assert "wandb sync" in capsys.readouterr().out


class AtIteration(RolloutTable):
    """Does something to the service in the middle of a run."""

    def __init__(self, iteration: int, action: Any):
        self.iteration, self.action = iteration, action

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch.iteration + 1 == self.iteration:
            self.action()

    def on_train_batch_end(self, *_: Any) -> None:
        """No table."""


def test_a_service_that_goes_away_costs_no_step(backend, tmp_path):
    import wandb

    away = AtIteration(3, backend.stop)
    wandb_run(tmp_path / "run", callbacks=[away], mode="online", finish_timeout=1)
    wandb.teardown()
    (log,) = (tmp_path / "run/wandb").glob("run-*")
    check_history(tmp_path / "run", read_offline_run(log))  # kept here, for `wandb sync`


def test_a_wandb_process_that_is_killed_costs_no_step(home, tmp_path):
    with pytest.warns(UserWarning, match="the run goes on without it"):
        wandb_run(tmp_path / "run", callbacks=[AtIteration(3, _kill_wandb)])
    assert read_metrics(tmp_path / "run/metrics.csv")[metrics.LOSS][0] == [1, 2, 3, 4]
    wandb_run(tmp_path / "next", iterations=2)  # the next job has one again
    check_history(tmp_path / "next", offline_run(tmp_path / "next"), 2)


def _kill_wandb() -> None:
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True)
    children = [line.split() for line in listing.stdout.splitlines()]
    ours = [line for line in children if line[1] == str(os.getpid()) and "wandb-core" in line[2]]
    ((pid, *_),) = ours
    os.kill(int(pid), signal.SIGKILL)
    time.sleep(1)
