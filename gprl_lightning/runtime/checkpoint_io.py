"""How a checkpoint is written and read: straight to its file, and in plain values only.

A checkpoint is PyTorch's zip archive with one record more, ``run.json``: which run made it, at
which iteration. That header is read without unpickling anything, so that a file is refused before
its tensors are touched; and these are loaded with ``weights_only=True``, which runs no code.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import Tensor

from gprl_lightning.errors import (
    CheckpointCorrupt,
    InvariantError,
    NotFinite,
    NotPlain,
    ResumeRefused,
)
from gprl_lightning.runtime.checkpoint_files import RECORD, read_header

KEY = "run"  # of the header, in the checkpoint that Lightning and callbacks see
PLAIN = (type(None), bool, int, float, str, bytes, Tensor)
# What Lightning restores from; a file without one of them was not written by a run.
PARTS = {"state_dict": dict, "loops": dict, "optimizer_states": list, "lr_schedulers": list}


class PlainCheckpointIO(CheckpointIO):
    """Writes a checkpoint without holding a second copy of it, in memory or on another disk.

    Attributes:
        failure: why the latest save did not work, or None. It is kept, and not raised, because the
            other processes wait for this one: the caller tells them first.
    """

    def __init__(self) -> None:
        self.failure: OSError | InvariantError | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `checkpoint`, and have the disk hold it."""
        header, self.failure = checkpoint.pop(KEY, {}), None
        try:
            require_plain(checkpoint)
            if found := not_finite(checkpoint):
                raise NotFinite(
                    f"optimizer.lr: expected finite weights and moments; found {found}. Nothing is "
                    "saved of them: the checkpoint before is whole. Lower optimizer.lr."
                )
            with Path(path).open("wb") as file:
                write_to(file, checkpoint)
            with zipfile.ZipFile(path, "a") as archive:
                root = archive.namelist()[0].partition("/")[0]
                archive.writestr(f"{root}/{RECORD}", json.dumps(header, default=str))
            flush(Path(path))
        except (OSError, InvariantError) as error:
            self.failure = error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the checkpoint on the CPU, with its header under `KEY`.

        Raises:
            CheckpointCorrupt: it holds something besides plain values, or lacks a part, or a weight
                or a moment in it is not finite.
        """
        if Path(path).is_dir():
            raise ResumeRefused(
                f"ckpt_path: expected a file; found {path}, the checkpoint of a run that was "
                "sharded over processes. Go on with trainer=fsdp2."
            )
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
            found = str(error).partition("\n")[0][:200]
            raise CheckpointCorrupt(
                f"ckpt_path: expected plain values in {path}; found {found} Give a checkpoint that "
                "train.py wrote."
            ) from error
        for part, kind in PARTS.items():
            found = checkpoint.get(part) if isinstance(checkpoint, dict) else None
            if not isinstance(found, kind):
                raise CheckpointCorrupt(
                    f"ckpt_path: expected a {kind.__name__} as {part!r} in {path}; found "
                    f"{type(found).__name__}. Give a checkpoint that train.py wrote."
                )
        weights = checkpoint["state_dict"].items()
        if odd := [name for name, value in weights if not isinstance(value, Tensor)]:
            raise CheckpointCorrupt(
                f"ckpt_path: expected tensors as weights in {path}; found something else as "
                f"{str(odd[0])[:80]!r}. Go on from an earlier checkpoint."
            )
        if found := not_finite(checkpoint):
            raise CheckpointCorrupt(
                f"ckpt_path: expected finite weights and moments in {path}; found {found}. Go on "
                "from an earlier checkpoint."
            )
        return {**checkpoint, KEY: read_header(Path(path))}

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint's file, if there is one."""
        Path(path).unlink(missing_ok=True)


class RaisingCheckpointIO(PlainCheckpointIO):
    """The same where nobody asks for `failure`: it is raised."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write by a neighbouring name, so that the file before stays until this one is whole."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        super().save_checkpoint(checkpoint, partial)
        if self.failure is not None:
            partial.unlink(missing_ok=True)
            raise self.failure
        partial.replace(target)


def require_plain(checkpoint: Any) -> None:
    """Raise NotPlain if anything in it could only be read back by running code."""
    for place, value in _leaves(checkpoint, ""):
        if not isinstance(value, PLAIN):
            raise NotPlain(
                f"checkpoint: expected numbers, texts, tensors, lists and dicts; found a "
                f"{type(value).__module__}.{type(value).__name__} at {place}. Return plain values "
                "from the state_dict of whatever put it there."
            )


def not_finite(checkpoint: dict[str, Any]) -> str | None:
    """Return where a weight or a moment is NaN or infinite; None if nowhere."""
    parts = {name: checkpoint.get(name) for name in ("state_dict", "optimizer_states")}
    for place, value in _leaves(parts, ""):
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            return f"{int((~value.isfinite()).sum())} of {value.numel()} that are not in {place}"
    return None


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _leaves(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, child in node.items():
            if not isinstance(name, (str, int)):
                yield f"{place}/{name}", name
            yield from _leaves(child, f"{place}/{name}")
    elif type(node) in (list, tuple):
        for index, child in enumerate(node):
            yield from _leaves(child, f"{place}/{index}")
    else:
        yield place, node


def write_to(file: IO[bytes], value: Any) -> None:
    """Save `value`; `torch.save` turns what a disk says into a RuntimeError without a number.

    Raises:
        OSError: the disk did not take it.
    """
    recorded = _Recorded(file)
    try:
        torch.save(value, cast("IO[bytes]", recorded))
    except RuntimeError as error:
        if recorded.error is None:
            raise
        raise recorded.error from error


class _Recorded:
    """A file that remembers why it could not be written."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()
