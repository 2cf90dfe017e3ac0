"""Grids by submitit and Ray, one run by torchrun and under Slurm's variables: real processes.

``make test-launchers`` installs Ray and runs these.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gprl_lightning.tracking.metrics_file import read_metrics
from tests.composing import ROOT
from tests.equality import weights_hash
from tests.tiny_run import clean_environment, tiny_settings

pytestmark = pytest.mark.launchers
PATIENCE = 600  # seconds that anything here may take
TASK = "submitit.core._submit"


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("tiny")
    found = tiny_settings(folder) | {"checkpoint_every": 1000, "logger": "csv"}
    return [f"{key}={value}" for key, value in found.items()]


def start(log: Path, *words: str, **environment: str) -> subprocess.Popen:
    """Start a command from the repository's root, in a session of its own."""
    output = log.open("a")
    options = {"cwd": ROOT, "env": clean_environment(**environment), "start_new_session": True}
    return subprocess.Popen([sys.executable, *words], stdout=output, stderr=output, **options)


def grid(settings: list[str], folder: Path, launcher: str, *more: str) -> subprocess.Popen:
    """Start a grid of two seeds."""
    places = [f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=seed_${seed}"]
    words = [*settings, *places, f"hydra/launcher={launcher}", "seed=1,2", *more]
    return start(folder.with_suffix(".log"), "train.py", "-m", *words)


def final(folder: Path) -> str:
    return weights_hash(load_file(folder / "policy" / "model.safetensors"))


def alone(settings: list[str], folder: Path, *more: str) -> str:
    """The final weights of one run in one process, undisturbed."""
    words = [*settings, f"hydra.run.dir={folder}", *more]
    assert start(folder.with_suffix(".log"), "train.py", *words).wait(PATIENCE) == 0
    return final(folder)


def wait_until(reached: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)


def tasks(folder: Path) -> list[int]:
    """The processes of submitit's jobs whose logs are in `folder`."""
    found = subprocess.run(["pgrep", "-f", f"{TASK} {folder}"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def iterations(folder: Path) -> int:
    file = folder / "metrics.csv"
    rows = read_metrics(file) if file.exists() else {}
    return max((len(steps) for steps, _ in rows.values()), default=0)


def test_a_job_that_submitit_preempts_is_requeued_and_ends_as_if_it_had_not_been(
    settings, tmp_path
):
    """The signal is submitit's own; nothing but it saves: checkpoint_every is past the end."""
    settings = [*settings, "iterations=40"]
    folder = tmp_path / "grid"
    process = grid(settings, folder, "local_queue", "hydra.launcher.timeout_min=600")
    wait_until(lambda: iterations(folder / "seed_1") >= 3, process)
    for pid in tasks(folder):
        os.kill(pid, signal.SIGUSR2)
    assert process.wait(PATIENCE) == 0
    logs = "".join(f.read_text() for f in folder.glob(".submitit/*/*_log.*"))
    assert "Requeued job" in logs and "going on from" in logs
    for seed in (1, 2):
        expected = alone(settings, tmp_path / f"alone{seed}", f"seed={seed}")
        assert final(folder / f"seed_{seed}") == expected


def test_a_grid_that_is_killed_goes_on_by_the_same_command(settings, tmp_path):
    settings = [*settings, "iterations=40", "checkpoint_every=5"]
    folder = tmp_path / "grid"
    process = grid(settings, folder, "local_queue")
    wait_until(lambda: any((folder / "seed_1" / "checkpoints").glob("*.ckpt")), process)
    found = tasks(folder)
    os.killpg(process.pid, signal.SIGKILL)
    for pid in {process.pid, *found, *tasks(folder)} - {process.pid}:
        os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    assert tasks(folder) == []
    assert grid(settings, folder, "local_queue").wait(PATIENCE) == 0
    for seed in (1, 2):
        expected = alone(settings, tmp_path / f"alone{seed}", f"seed={seed}")
        assert final(folder / f"seed_{seed}") == expected
    assert grid(settings, folder, "local_queue").wait(PATIENCE) == 0
    assert "2 of 2 jobs are finished: skipped" in folder.with_suffix(".log").read_text()


def test_a_grid_by_ray(settings, tmp_path):
    folder = tmp_path / "grid"
    assert grid(settings, folder, "ray_local").wait(PATIENCE) == 0, folder.with_suffix(
        ".log"
    ).read_text()[-3000:]
    for seed in (1, 2):
        assert final(folder / f"seed_{seed}") == alone(
            settings, tmp_path / f"alone{seed}", f"seed={seed}"
        )


TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "threads=1")


@pytest.fixture(scope="module")
def on_one_node(settings, tmp_path_factory) -> str:
    """The final weights of two processes that Lightning starts itself."""
    return alone(settings, tmp_path_factory.mktemp("two") / "run", *TWO, "trainer.devices=2")


def two_nodes(
    settings: list[str], folder: Path, words: Callable[[int], list[str]], variables=lambda rank: {}
) -> str:
    """The final weights of two processes that a launcher starts, as if each on its own node."""
    nodes = ("trainer.devices=1", "trainer.num_nodes=2", f"hydra.run.dir={folder}")
    processes = [
        start(
            folder.with_suffix(f".{rank}.log"),
            *words(rank), "train.py", *settings, *TWO, *nodes,
            **variables(rank),
        )
        for rank in (0, 1)
    ]  # fmt: skip
    codes = [process.wait(PATIENCE) for process in processes]
    assert codes == [0, 0], folder.with_suffix(".0.log").read_text()[-3000:]
    return final(folder)


def test_two_nodes_by_torchrun(settings, tmp_path, on_one_node):
    def words(rank: int) -> list[str]:
        address = ["--master-addr", "127.0.0.1", "--master-port", str(free_port)]
        nodes = ["--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1"]
        return ["-m", "torch.distributed.run", *nodes, *address]

    free_port = port()
    assert two_nodes(settings, tmp_path / "run", words) == on_one_node


def test_two_nodes_under_slurms_variables(settings, tmp_path, on_one_node):
    """What ``srun`` sets; Slurm itself is not here."""
    common = {
        "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "gprl", "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_NODELIST": "127.0.0.1",
        "SLURM_LOCALID": "0", "MASTER_PORT": str(port()),
    }  # fmt: skip
    found = two_nodes(
        settings,
        tmp_path / "run",
        lambda rank: [],
        lambda rank: common | {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)},
    )
    assert found == on_one_node


def port() -> int:
    """A port that is free now."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
