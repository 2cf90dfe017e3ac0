"""What becomes of the other processes of a run: one that has died, or is not heard of, is named.

Each process counts the points at which it meets the others (`MEETINGS`). A thread of each tells
that count to the others, by way of the store at which they met, and reads theirs. Who waits for
longer than the time-out for one that has met fewer times says so and ends; collectives alone would
wait on, or end with an error of the network. Ours.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.distributed import (
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage]
    Store,  # pyright: ignore[reportPrivateImportUsage]
    TCPStore,  # pyright: ignore[reportPrivateImportUsage]
)

EXIT_PEER = 3  # as for a broken invariant
GRACE = 5.0  # seconds that this process has to end by itself, when another one has
LINES = 12  # of a dead process's log


@dataclass
class Meetings:
    """How often this process has set out to meet the others, and what for."""

    count: int = 0
    purpose: str = "the start"
    since: float = field(default_factory=time.monotonic)

    def set_out(self, purpose: str) -> None:
        """Count one more, before waiting for the others."""
        self.count, self.purpose, self.since = self.count + 1, purpose, time.monotonic()


MEETINGS = Meetings()


@dataclass
class Heard:
    """What was last heard of another process."""

    count: int = 0
    beats: int = -1
    where: str = "a process that has not yet said where it is"
    purpose: str = "the start"
    at: float = field(default_factory=time.monotonic)  # of the last beat


class Watch(threading.Thread):
    """Tells the others how far this process is, and ends it when it waits for one in vain.

    Args:
        store: where all processes leave word.
        rank: of this process.
        processes: how many there are.
        timeout: seconds that one may be waited for.
        end: called with the message; ends this process.
        meetings: of this process.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        processes: int,
        timeout: float,
        end: Callable[[str], None],
        meetings: Meetings = MEETINGS,
    ):
        super().__init__(daemon=True, name="watch-over-processes")
        self.meetings = meetings
        self.store, self.rank, self.timeout, self.end = store, rank, timeout, end
        self.peers = {r: Heard() for r in range(processes) if r != rank}
        self.stopped = threading.Event()
        self.beats = 0

    def run(self) -> None:
        # In a thread of its own: where the store's process is stopped, a call of the store waits,
        # and that process is the one to name.
        threading.Thread(target=self._talk, daemon=True, name="word-to-processes").start()
        while not self.stopped.wait(self.pause):
            if missing := self.missing():
                self.end(missing)
                return

    @property
    def pause(self) -> float:
        """Seconds between two looks."""
        return min(5.0, self.timeout / 10)

    def _talk(self) -> None:
        wait = 0.0
        while not self.stopped.wait(wait):
            with suppress(RuntimeError):
                self._exchange()
            # A process that stops before it has said where it is could not be named: ask sooner.
            known = all(heard.beats > 0 for heard in self.peers.values())
            wait = self.pause if known else self.pause / 10

    def _exchange(self) -> None:
        """Leave word, and read that of the others."""
        self.beats += 1
        where = f"process {os.getpid()} on {socket.gethostname()}"
        word = [self.meetings.count, self.beats, where, self.meetings.purpose]
        self.store.set(str(self.rank), json.dumps(word))
        for rank, heard in self.peers.items():
            if not self.store.check([str(rank)]):
                continue
            count, beats, where, purpose = json.loads(self.store.get(str(rank)))
            if beats != heard.beats:
                self.peers[rank] = Heard(count, beats, where, purpose)

    def missing(self) -> str:
        """Return who has been waited for too long, and how long; empty if nobody has."""
        now, mine = time.monotonic(), self.meetings
        if now - mine.since < self.timeout:
            return ""
        lines = []
        for rank, heard in self.peers.items():
            silent = now - heard.at
            if silent >= self.timeout:
                lines.append(f"rank {rank}, {heard.where}, silent for {silent:.0f} s")
            elif heard.count < mine.count:
                lines.append(f"rank {rank}, {heard.where}, alive, and still at: {heard.purpose}")
        if not lines:
            return ""
        return (
            f"PeerLost: peer_timeout={self.timeout:.0f}: expected all processes to meet within as "
            f"many seconds; rank {self.rank} has waited for {now - mine.since:.0f} s (for: "
            f"{mine.purpose}) and found missing: {'; '.join(lines)}. Look at that process and "
            "its machine, or raise peer_timeout. The same command goes on from the newest "
            "checkpoint."
        )


def store_of_the_run(timeout: float) -> Store:
    """Return a connection of one's own to the store at which the processes met.

    One of one's own, because a collective that is being set up may hold the other.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    wait = timedelta(seconds=max(1.0, timeout / 10))
    store = TCPStore(address, port, is_master=False, timeout=wait, wait_for_workers=False)
    return PrefixStore("gprl/peers", store)


class Children(threading.Thread):
    """Watches the processes that this one has started: one that dies ends the run, by name.

    Args:
        processes: of ranks 1, 2, … on this machine.
        logs: where each leaves its last words.
        end: called with the message; ends this process.
    """

    def __init__(
        self,
        processes: Sequence[subprocess.Popen[Any]],
        logs: Sequence[Path],
        end: Callable[[str], None],
    ):
        super().__init__(daemon=True, name="watch-over-children")
        self.processes, self.logs, self.end = processes, logs, end
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.2):
            if self.lost():
                # It may be ending for the same reason as this one, which then says it better.
                if not self.stopped.wait(GRACE):
                    self.end(f"PeerLost: {self.lost()}")
                return

    def lost(self) -> str:
        """Return which of them has died, and of what; empty if all are well."""
        for number, (process, log) in enumerate(zip(self.processes, self.logs, strict=True), 1):
            code = process.poll()
            if code:
                return f"local rank {number} (process {process.pid}) {died_of(code)}{words(log)}"
        return ""

    def kill(self) -> None:
        """End them, also those that are stopped."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()


def died_of(code: int) -> str:
    """Return what a process's exit code says."""
    if code > 0:
        return f"ended with exit code {code}."
    name = signal.Signals(-code).name
    hint = ", as the kernel does when memory runs out" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{hint}."


def words(log: Path) -> str:
    """Return the last lines of a process's log."""
    try:
        lines = log.read_text(encoding="utf8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f" Its last words ({log}):\n" + "\n".join(lines[-LINES:]) if lines else ""


def exit_with(message: str) -> None:
    """End this process at once: its main thread is waiting, and would not be reached."""
    sys.stdout.flush()
    os.write(2, f"{message}\n".encode())
    os._exit(EXIT_PEER)
