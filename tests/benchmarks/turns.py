"""Two or more training runs that take turns on one machine, and report what each turn has cost.

A run stops at the start of an iteration and waits, on its standard input, for the number of
iterations that it may do next; then it reports their CPU-seconds on its standard output. So runs of
different programs are interleaved, iteration by iteration if need be, and neither start-up nor a
change of the machine's load falls to one of them alone.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import lightning as L

ROOT = Path(__file__).parents[2]
MARK = "TURN "  # begins a line of ours among those that a run prints


class Turns:
    """Inside a run: call `iteration` at the start of each."""

    def __init__(self) -> None:
        self.left = self.allowed = 0
        self.cpu = self.wall = 0.0
        self.resident = 0
        self.notes: dict[str, list[float]] = {}

    def iteration(self) -> None:
        """Go on, or report and wait. Ends the process where no more is wanted."""
        if self.left == 0:
            if self.allowed:
                self._report()
            else:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                self.resident = pages * resource.getpagesize()
            self.left = self.allowed = int(sys.stdin.readline() or 0)
            if self.allowed == 0:
                os._exit(0)  # no closing work: nothing of the run is wanted any more
            self.notes.clear()
            self.cpu, self.wall = process_time(), perf_counter()
        self.left -= 1

    def note(self, name: str, value: float) -> None:
        """Something else to report: the mean over the turn."""
        self.notes.setdefault(name, []).append(value)

    def _report(self) -> None:
        report = {
            "iterations": self.allowed,
            "cpu_seconds": (process_time() - self.cpu) / self.allowed,
            "wall_seconds": (perf_counter() - self.wall) / self.allowed,
            "start_bytes": self.resident,
            "peak_bytes": peak_bytes(),
            **{name: sum(values) / len(values) for name, values in self.notes.items()},
        }
        print(f"\n{MARK}{json.dumps(report)}", flush=True)


def peak_bytes() -> int:
    """The most that this process has had in memory. Not ru_maxrss, which begins with what the
    process that started it had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


class TakeTurns(L.Callback):
    """`Turns` in a run of ours: ``+callbacks.turns._target_=tests.benchmarks.turns.TakeTurns``."""

    def __init__(self) -> None:
        self.turns = Turns()

    def on_train_batch_start(self, *_: Any) -> None:
        self.turns.iteration()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        mask = outputs["iteration"].group.scored.rollout.response_mask
        self.turns.note("mean_length", float(mask.sum()) / len(mask))


class Run:
    """Outside: a run in a process of its own, that does as many iterations as it is told.

    Args:
        module: what to run, with ``python -m``; it calls `Turns.iteration`.
        arguments: its command line.
        log: what it says on standard error.
        environment: over this process's own.
        python: the interpreter.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ):
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [python, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            )

    def turn(self, iterations: int) -> dict[str, float]:
        """Let it do some iterations; returns what each has cost, on average.

        Raises:
            RuntimeError: the run has ended; the message shows its last words.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(f"{iterations}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words are below
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise RuntimeError(f"the run ended early: {self.log.read_text()[-3000:]}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
