"""W&B's own ``wandb sweep`` and ``wandb agent``, unmodified, over real short runs of ``train.py``.

The server is ours and on this machine; the sweep is one of ``sweeps/``, with settings added that
make its trials take seconds.
"""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gprl_lightning.runtime.preemption import EXIT_PREEMPTED
from gprl_lightning.tracking import metrics
from tests.composing import ROOT
from tests.tiny_run import clean_environment, tiny_settings
from tests.wandb_backend import WandbBackend
from tests.wandb_state import RemoteRun

BIN = Path(sys.executable).parent
TIMEOUT = 600  # seconds; two busy cores are slow


class Sweep:
    """A sweep file of ours on a server of ours."""

    def __init__(self, backend: WandbBackend, folder: Path):
        self.backend, self.folder = backend, folder
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"  # ${interpreter} is the word `python`
        places = {"PATH": path, "WANDB_DIR": str(folder)}
        self.environment = clean_environment(**backend.environment(folder), **places)
        self.settings = tiny_settings(folder)
        self.path = ""
        self.started: list[subprocess.Popen[str]] = []

    def create(self, file: str, **changed: Any) -> None:
        """``wandb sweep``; `changed` are parameters' values, dots written as ``__``."""
        sweep = yaml.safe_load((ROOT / "sweeps" / file).read_text())
        sweep["parameters"] |= {name: {"value": value} for name, value in self.settings.items()}
        for name, values in changed.items():
            sweep["parameters"][name.replace("__", ".")] = {"values": values}
        (self.folder / file).write_text(yaml.safe_dump(sweep))
        said = self.wandb("sweep", str(self.folder / file))
        found = re.search(r"wandb agent (\S+)", said)
        assert found, said
        self.path = found.group(1)

    def wandb(self, *arguments: str) -> str:
        """W&B's command line; what it printed."""
        done = self._start(*arguments)
        said, _ = done.communicate(timeout=TIMEOUT)
        assert done.returncode == 0, said
        return said

    def agent(self, *options: str) -> subprocess.Popen[str]:
        return self._start("agent", *options, self.path)

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command = [str(BIN / "wandb"), *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=self.environment, **pipes)  # type: ignore
        self.started.append(process)
        return process

    def end(self) -> None:
        """Leave nothing behind: the third interrupt makes an agent kill its trial."""
        for process in self.started:
            for _ in range(3):
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    time.sleep(1)

    @property
    def runs(self) -> list[RemoteRun]:
        """The trials that have reported, in order."""
        (sweep,) = self.backend.state.sweeps.values()
        return [self.backend.state.runs[r] for r in sweep.runs if r in self.backend.state.runs]


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    with WandbBackend() as backend:
        made = Sweep(backend, tmp_path)
        yield made
        made.end()
        assert backend.state.unknown == []


def _wait(agent: subprocess.Popen[str], until: Callable[[], Any]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not until():
        assert agent.poll() is None, agent.communicate()[0]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def _end(agent: subprocess.Popen[str]) -> str:
    said, _ = agent.communicate(timeout=TIMEOUT)
    assert agent.returncode == 0, said
    return said


def _folder(run: RemoteRun) -> Path:
    """Where the trial wrote its files, by the configuration that it logged."""
    return Path(run.config["logger"]["wandb"]["save_dir"])


def _check_finished(run: RemoteRun, normalization: str) -> None:
    """Configuration, history, summary, tables and exit code arrived."""
    assert run.exit_code == 0
    assert run.config["algorithm"]["normalization"] == normalization
    assert run.config["algorithm.normalization"] == normalization  # as the sweep gave it
    assert run.config["provenance"]["command"][1].endswith("train.py")
    with (_folder(run) / "metrics.csv").open(newline="") as file:
        rows = {int(row[metrics.ITERATION]): row for row in csv.DictReader(file)}
    assert sorted(rows) == [0, 1, 2]
    for name in (metrics.LOSS, metrics.KL, metrics.per_axis(metrics.AXIS_SCORE_STD, 2)):
        logged = {r[metrics.ITERATION]: r[name] for r in run.history if name in r}
        assert logged == {i: pytest.approx(float(rows[i][name])) for i in (1, 2)}, name
    evaluated = [row for row in run.history if metrics.EVAL_WIN_RATE in row]
    rates = {row[metrics.ITERATION]: row[metrics.EVAL_WIN_RATE] for row in evaluated}
    assert rates == {i: float(rows[i][metrics.EVAL_WIN_RATE]) for i in (0, 2)}
    assert run.summary[metrics.EVAL_WIN_RATE] == rates[2]  # the objective
    assert len(run.values(metrics.RESPONSES)) == 2


def test_the_agent_runs_a_trial_of_a_sweep_of_ours(sweep):
    sweep.create("normalization.yaml")
    said = _end(sweep.agent("--count", "1"))
    assert len(sweep.runs) == 1, said
    (run,) = sweep.runs
    _check_finished(run, "per_axis")
    (name,) = sweep.backend.state.sweeps
    assert run.about["sweep"] == name
    assert run.about["displayName"] == _folder(run).name
    asked = ["UpsertSweep", "SweepWithRuns", "CreateAgent", "Heartbeat", "UpsertBucket"]
    positions = [sweep.backend.state.operations.index(operation) for operation in asked]
    assert positions == sorted(positions)


@pytest.mark.slow
def test_a_crashing_trial_reports_its_exit_code_and_the_agent_goes_on(sweep):
    """The first folder cannot be made, which ends the trial in its first iteration."""
    folders = [str(Path(os.devnull) / "none"), str(sweep.folder / "tables")]
    sweep.create(
        "normalization.yaml",
        algorithm__normalization=["global"],
        callbacks__rollout_table__folder=folders,
        seed=[0],
    )
    said = _end(sweep.agent())
    assert len(sweep.runs) == 2, said
    crashed, finished = sweep.runs
    assert crashed.exit_code == 1
    assert crashed.values(metrics.EVAL_WIN_RATE), "it had begun"
    _check_finished(finished, "global")
    assert (sweep.folder / "tables/rollouts/iteration_000002.csv").exists()


def _check_stopped(run: RemoteRun) -> None:
    """It finished its iteration, saved it, and has it everywhere."""
    assert run.exit_code == EXIT_PREEMPTED
    done = run.summary[metrics.ITERATION]
    assert run.values(metrics.LOSS)[-1] == run.summary[metrics.LOSS]
    assert len(run.values(metrics.LOSS)) == done >= 2
    with (_folder(run) / "metrics.csv").open(newline="") as file:
        rows = [int(row[metrics.ITERATION]) for row in csv.DictReader(file)]
    assert rows == list(range(done + 1))
    (checkpoint,) = (_folder(run) / "checkpoints").iterdir()
    assert checkpoint.name == f"iteration_{done:06d}.ckpt"


LONG = {"iterations": [100_000], "evaluation__every": [100_000], "checkpoint_every": [100_000]}


@pytest.mark.slow
def test_a_cancelled_sweep_ends_its_run_cleanly(sweep):
    """``wandb sweep --cancel``: the agent sends SIGTERM."""
    sweep.create("normalization.yaml", **LONG)
    agent = sweep.agent()
    _wait(agent, lambda: sweep.runs and len(sweep.runs[0].values(metrics.LOSS)) >= 2)
    sweep.wandb("sweep", "--cancel", sweep.path)
    _end(agent)
    (run,) = sweep.runs
    _check_stopped(run)


@pytest.mark.slow
def test_a_stopped_sweep_finishes_its_trial_and_starts_no_other(sweep):
    sweep.create("normalization.yaml")
    agent = sweep.agent()
    _wait(agent, lambda: sweep.runs)
    sweep.wandb("sweep", "--stop", sweep.path)
    _end(agent)
    (run,) = sweep.runs
    _check_finished(run, "per_axis")


@pytest.mark.slow
def test_a_run_that_is_stopped_on_w_and_b_s_page_ends_cleanly(sweep):
    """The client asks every 15 s whether it shall stop."""
    sweep.create("normalization.yaml", **LONG)
    agent = sweep.agent("--count", "1")
    _wait(agent, lambda: sweep.runs and sweep.runs[0].values(metrics.LOSS))
    sweep.runs[0].stopped = True
    _end(agent)
    (run,) = sweep.runs
    _check_stopped(run)
