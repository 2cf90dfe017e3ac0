"""Real processes under DDP of which one dies or stops: the run ends, and says which one and why."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from lightning import Callback

from tests.composing import ROOT
from tests.processes import Forked
from tests.tiny_run import clean_environment, tiny_settings

TIMEOUT = 5  # seconds


class DiesAsSecond(Callback):
    """Stands for whatever ends a process as it starts, but only in the second one."""

    def __init__(self, how: str):
        if os.environ.get("LOCAL_RANK") == "1":
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("expected a device that answers; found none.")


def start(folder: Path, *overrides: str) -> Forked:
    options = {**tiny_settings(folder), "logger": "none", "evaluation.judge": "none"}
    options |= {"peer_timeout": TIMEOUT, "iterations": 5000, "checkpoint_every": 1}
    command = ["train.py", *[f"{k}={v}" for k, v in options.items()]]
    command += ["+trainer.strategy=ddp", "trainer.devices=2", f"hydra.run.dir={folder / 'run'}"]
    log = folder / "log"
    return Forked([*command, *overrides], clean_environment(PYTHONPATH=str(ROOT)), log, log)


def told_by(process: Forked, folder: Path, code: int = 3) -> str:
    """What it wrote until its end."""
    found = process.wait(240)
    told = (folder / "log").read_text()
    assert found == code, told[-3000:]
    return told


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises", "expected a device that answers; found none."),
        ("killed", "was ended by SIGKILL"),
    ],
)
def test_a_process_that_dies_as_it_starts_is_named(tmp_path, how, says):
    target = "+callbacks.dies._target_=tests.faults.test_peers.DiesAsSecond"
    process = start(tmp_path, target, f"+callbacks.dies.how={how}")
    output = told_by(process, tmp_path)
    told = output[output.index("PeerLost: ") :]
    assert "local rank 1 (process " in told and says in told
    if how == "raises":
        assert "exit code 2" in told and "train_ddp_process_1.log" in told


def child_of(process: Forked) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (child,) = [int(c) for c in children if "train.py" in Path(f"/proc/{c}/cmdline").read_text()]
    return child


def wait_for_the_first_checkpoint(process: Forked, folder: Path) -> None:
    end = time.monotonic() + 240
    while not list(folder.glob("run/checkpoints/*.ckpt")):
        assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.05)


def wait_for_the_end_of(pid: int) -> None:
    """It may stay as a zombie, for want of a parent that reaps it."""
    end, state = time.monotonic() + 240, Path(f"/proc/{pid}/stat")
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.1)


def two_at_work(folder):
    """The first process and its child, past their first checkpoint."""
    process = start(folder)
    wait_for_the_first_checkpoint(process, folder)
    return process, child_of(process)


def test_a_process_that_stops_is_named_and_the_run_ends(tmp_path):
    process, child = two_at_work(tmp_path)
    os.kill(child, signal.SIGSTOP)
    output = told_by(process, tmp_path)
    assert f"PeerLost: peer_timeout={TIMEOUT}" in output
    assert f"rank 1, process {child} on " in output
    wait_for_the_end_of(child)  # a stopped process would hold its memory for ever


@pytest.mark.slow
def test_the_first_process_stopped_is_named_by_the_second(tmp_path):
    process, child = two_at_work(tmp_path)
    process.send_signal(signal.SIGSTOP)
    wait_for_the_end_of(child)
    process.kill()
    output = told_by(process, tmp_path, code=-signal.SIGKILL)
    assert f"rank 0, process {process.pid} on " in output and "PeerLost" in output


def test_a_process_that_dies_later_is_named(tmp_path):
    process, child = two_at_work(tmp_path)
    os.kill(child, signal.SIGKILL)
    output = told_by(process, tmp_path)
    told = output[output.index("PeerLost: ") :]
    assert f"local rank 1 (process {child}) was ended by SIGKILL" in told
    assert "the newest checkpoint" in told.replace("\n", " ")
