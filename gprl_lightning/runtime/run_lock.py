"""One run at a time in one folder: a lock from before the choice of a checkpoint to the last file.

The lock is the kernel's, on ``.lock`` in the folder, so that it ends with the process that holds
it, however that ends, and holds through every name that a folder has, links included. What stands
in the file says who holds it; it is empty when nobody does.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from gprl_lightning.errors import ConfigError
from gprl_lightning.runtime.disk import CLOSED

FILE = ".lock"
# Who sets them counts the processes of one run from 0; the first one holds the lock for all.
RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
# What a run writes into its folder, and what each must be if it is there already.
FOLDERS = ("checkpoints", "policy", "adapter", "rollouts", "preference_model", "bad_steps")
FILES = ("metrics.csv", "config.yaml", "provenance.json", "summary.json", "report.png")
FILES += ("drift_interventions.csv", "evaluation.json", FILE)


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, in the first process of a run.

    Raises:
        ConfigError: another run holds it, it cannot be written to, or what a run writes to is
            something else.
    """
    if not is_first_process(os.environ):
        yield
        return
    require_targets(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno not in CLOSED:
            raise
        raise ConfigError(
            f"hydra.run.dir={str(folder)!r}: expected a folder that can be written to; found: "
            f"{error.strerror}. Make it writable, or set another hydra.run.dir or paths.output."
        ) from error
    try:
        _hold(descriptor, folder)
        os.write(descriptor, json.dumps(_this_process()).encode())
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)  # which gives the lock back


def _hold(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"hydra.run.dir={str(folder)!r}: expected a folder that no other run is using; found "
            f"{_holder(descriptor)}. Wait for it, stop it, or set another hydra.run.dir."
        ) from None
    except OSError:
        pass  # a file system without locks: better a run without one than none
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)


def _holder(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "one that does not say which it is"


def _this_process() -> dict[str, str | int]:
    since = datetime.now().isoformat(" ", "seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def is_first_process(environment: Mapping[str, str]) -> bool:
    """Return whether no launcher has given this process a number above 0."""
    return not any(environment.get(name, "0").strip() not in ("", "0") for name in RANKS)


def require_targets(folder: Path) -> None:
    """Raise ConfigError where a file stands in the place of a folder, or the other way round."""
    for names, right, kind in ((FOLDERS, Path.is_dir, "folder"), (FILES, Path.is_file, "file")):
        for name in names:
            place = folder / name
            if os.path.lexists(place) and not right(place):
                found = "a folder" if place.is_dir() else "something else, or a link to nothing"
                raise ConfigError(
                    f"hydra.run.dir={str(folder)!r}: expected {name} to be a {kind}, since the run "
                    f"writes there; found {found}. Move it away, or set another hydra.run.dir."
                )
