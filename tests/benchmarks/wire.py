"""Bytes that the processes of a run send: they get a network of their own, and its device counts.

Linux alone: the run starts in a new network namespace, in which there is nothing but loopback.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import lightning as L

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SET_FLAGS, UP = 0x8914, 0x41  # SIOCSIFFLAGS; IFF_UP | IFF_RUNNING
FILE = "wire.json"


def private_network() -> None:
    """Give this process, and those it starts, a network with loopback alone.

    Raises:
        OSError: the kernel does not let this user have one.
    """
    flags = CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWNET | CLONE_NEWUSER
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "expected to be allowed a network namespace")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SET_FLAGS, struct.pack("16sh14x", b"lo", UP))


def sent_bytes() -> int:
    """Return what loopback has sent, in bytes with the headers."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split(":")[1].split()[8])
    raise OSError("/proc/self/net/dev: expected a line of lo")


class Wire(L.Callback):
    """Writes what stood on the clocks and on loopback's counter when each iteration began."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, int]] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.strategy.barrier()
        self.rows.append((perf_counter(), process_time(), sent_bytes()))

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / FILE).write_text(json.dumps(self.rows))
