"""A run that is told to stop finishes its iteration and saves it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from gprl_lightning.runtime.processes import max_over_processes

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on
EXIT_INTERRUPTED = 128 + signal.SIGINT  # 130, as a shell reports Ctrl-C
# What each signal ends the run with. Slurm's is ``--signal=USR1@300``, submitit's USR2.
CODES = {
    getattr(signal, name): code
    for name, code in {
        "SIGTERM": EXIT_PREEMPTED,
        "SIGUSR1": EXIT_PREEMPTED,
        "SIGUSR2": EXIT_PREEMPTED,
        "SIGHUP": EXIT_PREEMPTED,
        "SIGINT": EXIT_INTERRUPTED,
    }.items()
    if hasattr(signal, name)
}
Handler = Callable[[int, FrameType | None], object]


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
    """Notes SIGTERM, SIGUSR1, SIGUSR2, SIGHUP and Ctrl-C until someone asks.

    What a launcher does on its own signal (submitit requeues the job) is put off until the
    iteration is saved: see `hand_over`. A second Ctrl-C stops at once. The others may come as often
    as they like: a scheduler repeats them, and the iteration that is being saved must not be lost
    to the second one.

    Attributes:
        code: what the run is to exit with; 0: it has not been told to stop.
    """

    def __init__(self) -> None:
        self.code = 0
        self._interrupts = 0
        self._scheduler: dict[int, Handler] = {}  # by signal, what a launcher had put there
        self._told = 0  # the signal that came first

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
                found = signal.getsignal(number)
                if found is not signal.SIG_IGN:
                    if callable(found) and found.__module__.startswith("submitit"):
                        self._scheduler[number] = found
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
        """Let signals do again what a launcher had them do, or end the process."""
        if threading.current_thread() is threading.main_thread():
            for number in CODES:
                if signal.getsignal(number) == self._note:
                    signal.signal(number, self._scheduler.get(number, _default(number)))

    def hand_over(self) -> None:
        """Let the launcher do what its signal asks for, now that all is saved.

        Submitit's handler puts the job back into the queue and exits; where there is none, and on
        all processes but the first, this returns.
        """
        requeue = self._scheduler.get(self._told)
        if requeue is not None:
            requeue(self._told, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.code = self.code or CODES[signal.Signals(number)]
        self._told = self._told or number
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise Interrupted
            # Not through sys.stderr, which the signal may have interrupted.
            os.write(2, b"\nFinishing the iteration to save it; Ctrl-C again stops at once.\n")

    def on_any_process(self) -> int:
        """Return what the run is to exit with, the same on all processes; 0: it goes on."""
        return int(max_over_processes(torch.tensor([float(self.code)])))


def _default(number: int) -> Handler | signal.Handlers:
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
