"""Real processes of Python that begin with their imports done.

A run loads torch, transformers and lightning for seven seconds of a core before its first step.
Here a server loads them once, and each process is a fork of it, with its own memory, signals and
exit code. Whatever looks at the imports themselves starts Python as a user does.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.composing import ROOT

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])


class Forked:
    """``python COMMAND``, as `subprocess.Popen` would start it; its output goes to files."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        stdout: Path,
        stderr: Path,
        cwd: Path = ROOT,
    ):
        self.command = list(command)
        outputs = (str(stdout), str(stderr))
        given = (self.command, dict(environment), str(cwd), outputs)
        self._process = SERVER.Process(target=_become, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(self.command, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def run_forked(
    command: Sequence[str], environment: Mapping[str, str], timeout: float, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """``python COMMAND`` to its end, as `subprocess.run` would."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        process = Forked(command, environment, *outputs, cwd=cwd)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        said = [o.read_text(errors="replace") if o.exists() else "" for o in outputs]
        return subprocess.CompletedProcess(command, code, *said)


def run_world(command: Sequence[str], world: int, folder: Path, timeout: float = 300) -> None:
    """``python COMMAND`` on so many processes, which find one another as those of torchrun do."""
    logs = [folder / f"rank{rank}.log" for rank in range(world)]
    alone = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = [
        Forked(command, alone | met, log, log)
        for met, log in zip(_meetings(world), logs, strict=True)
    ]
    end = time.monotonic() + timeout
    while None in (codes := [process.poll() for process in started]):
        if any(codes) or time.monotonic() > end:  # the others would wait for it
            break
        time.sleep(0.02)
    for process in started:
        process.kill()
    assert codes == [0] * world, "\n".join(log.read_text()[-3000:] for log in logs)


def _meetings(world: int) -> list[dict[str, str]]:
    """What torchrun says to each process in its environment; nothing to one that is alone."""
    if world == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests",
        "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0",
    }  # fmt: skip
    return [{**shared, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(world)]


def _become(
    command: list[str], environment: dict[str, str], cwd: str, outputs: tuple[str, str]
) -> None:
    """Run what Python would: ``-c CODE``, ``-m MODULE`` or a script, and its arguments."""
    for number, path in enumerate(outputs, start=1):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
    import torch

    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    try:
        _execute(command)
    finally:
        atexit._run_exitfuncs()  # a fork ends without them
        sys.stdout.flush()


def _execute(command: list[str]) -> None:
    what, *arguments = command
    if what == "-c":
        sys.argv = ["-c", *arguments[1:]]
        exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})
    elif what == "-m":
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(what).resolve().parent))
        runpy.run_path(what, run_name="__main__")
