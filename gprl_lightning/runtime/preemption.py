"""Told that its machine is to be taken away, a run finishes its iteration and saves it."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType

import torch

from gprl_lightning.runtime.processes import max_over_processes

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on
SIGNALS = tuple(s for s in signal.Signals if s.name in ("SIGTERM", "SIGUSR1"))


class Preempted(SystemExit):
    """The run was told to stop, and has saved all that it takes to go on. Exits with 75."""

    def __init__(self, checkpoint: Path):
        super().__init__(EXIT_PREEMPTED)
        self.checkpoint = checkpoint


class StopSignals:
    """Notes SIGTERM and SIGUSR1 (Slurm's ``--signal=USR1@300``) until someone asks."""

    def __init__(self) -> None:
        self.received = False

    def listen(self) -> None:
        """Take over from Lightning, whose handlers break off in the middle of an iteration.

        It puts back what it found at the end of the fit.
        """
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True

    def on_any_process(self) -> bool:
        """Whether any process has been told to stop: the same answer on all."""
        return bool(max_over_processes(torch.tensor([float(self.received)])) > 0)
