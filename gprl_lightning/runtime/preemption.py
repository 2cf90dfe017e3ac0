"""A run that is told to stop finishes its iteration and saves it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from gprl_lightning.runtime.processes import max_over_processes

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on
EXIT_INTERRUPTED = 128 + signal.SIGINT  # 130, as a shell reports Ctrl-C
# What each signal ends the run with. Slurm's is ``--signal=USR1@300``.
CODES = {
    getattr(signal, name): code
    for name, code in {
        "SIGTERM": EXIT_PREEMPTED,
        "SIGUSR1": EXIT_PREEMPTED,
        "SIGHUP": EXIT_PREEMPTED,
        "SIGINT": EXIT_INTERRUPTED,
    }.items()
    if hasattr(signal, name)
}


class Preempted(SystemExit):
    """The run was told to stop, and has saved all that it takes to go on. Exits with 75, or 130."""

    def __init__(self, checkpoint: Path, code: int = EXIT_PREEMPTED):
        super().__init__(code)
        self.checkpoint = checkpoint


class Interrupted(SystemExit):
    """The run was told by a second Ctrl-C to stop at once; it goes on from its last checkpoint."""

    def __init__(self) -> None:
        super().__init__(EXIT_INTERRUPTED)


class StopSignals:
    """Notes SIGTERM, SIGUSR1, SIGHUP and Ctrl-C until someone asks.

    A second Ctrl-C stops at once. The others may come as often as they like: a scheduler repeats
    them, and the iteration that is being saved must not be lost to the second one.

    Attributes:
        code: what the run is to exit with; 0: it has not been told to stop.
    """

    def __init__(self) -> None:
        self.code = 0
        self._interrupts = 0

    @property
    def received(self) -> bool:
        """Whether this process has been told to stop."""
        return self.code > 0

    def listen(self) -> None:
        """Take over from Lightning, whose handlers break off in the middle of an iteration.

        It puts back what it found at the end of the fit: call this before the fit, too, and a
        signal that comes while the run is saved and closed ends nothing.

        A signal that is ignored stays so: it is what ``nohup`` and a shell's ``&`` ask for.
        """
        if threading.current_thread() is threading.main_thread():
            for number in CODES:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._note)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen, until what is inside has ended; a run that was told to stop listens to its end,
        so that a repeated signal does not change its exit code."""
        self.listen()
        try:
            yield
        except SystemExit:
            raise
        except BaseException:
            self.restore()
            raise
        self.restore()

    def restore(self) -> None:
        """Let signals end the process again, as they do by default."""
        if threading.current_thread() is threading.main_thread():
            for number in CODES:
                if signal.getsignal(number) == self._note:
                    default = signal.default_int_handler
                    signal.signal(number, default if number == signal.SIGINT else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.code = self.code or CODES[signal.Signals(number)]
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise Interrupted
            # Not through sys.stderr, which the signal may have interrupted.
            os.write(2, b"\nFinishing the iteration to save it; Ctrl-C again stops at once.\n")

    def on_any_process(self) -> int:
        """Return what the run is to exit with, the same on all processes; 0: it goes on."""
        return int(max_over_processes(torch.tensor([float(self.code)])))
