"""Checkpoint files of a run: which there are, which are whole, and which one to go on from."""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

from gprl_lightning.errors import CheckpointCorrupt, ConfigError

RECORD = "run.json"  # of the header, in the archive
LARGEST_HEADER = 1 << 26  # bytes
# Of a run whose weights are spread over processes, a checkpoint is a folder of these: the part that
# is not spread, and each process's shards, whose sizes and checksums stand in that part's header.
REST, SHARDS, FILES = "rest.ckpt", "shard-{:05d}-*.safetensors", "files"
CHUNK = 1 << 24  # bytes read at a time


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    return sorted(folder.glob("iteration_*.ckpt"))


def iteration_of(file: Path) -> int:
    """Return how many iterations are done in a checkpoint, by its name."""
    digits = file.stem.rpartition("_")[2]
    if not digits.isdigit():
        raise ConfigError(
            f"ckpt_path={str(file)!r}: expected a name as iteration_000020.ckpt, whose number says "
            "where it stands. Give it its name back."
        )
    return int(digits)


def damage(file: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None: PyTorch's files are zip archives with
    checksums, and those of shards stand beside them."""
    if file.is_dir():
        return damage(file / REST) or _damaged_shard(file)
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except Exception as error:  # whatever a damaged archive makes zipfile raise
        return f"{type(error).__name__}: {error}"
    return None if broken is None else f"{broken} does not have its checksum"


def _damaged_shard(folder: Path) -> str | None:
    for name, (size, crc) in read_header(folder).get(FILES, {}).items():
        shard = folder / Path(name).name
        if not shard.is_file():
            return f"{name} is missing"
        if shard.stat().st_size != size or crc_of(shard) != crc:
            return f"{name} does not have its checksum"
    return None


def crc_of(file: Path) -> int:
    """Return the CRC-32 of a file's bytes."""
    crc = 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def read_header(file: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself; {} if it says nothing. Unpickles nothing."""
    file = file / REST if file.is_dir() else file
    try:
        with zipfile.ZipFile(file) as archive:
            names = [n for n in archive.namelist() if n.partition("/")[2] == RECORD]
            if len(names) != 1 or archive.getinfo(names[0]).file_size > LARGEST_HEADER:
                return {}
            header = json.loads(archive.read(names[0]))
    except (OSError, zipfile.BadZipFile, ValueError, RecursionError, NotImplementedError):
        return {}
    return header if isinstance(header, dict) else {}


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, a file or a folder, if there is one."""
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint)
    else:
        checkpoint.unlink(missing_ok=True)


def checkpoint_to_resume(ckpt_path: str | None, folder: Path) -> Path | None:
    """Return the file to go on from; None: start from the beginning.

    Args:
        ckpt_path: a file; or a run's folder, for its newest whole checkpoint. None: this run's own
            folder, if it has any, so that the same command in the same folder goes on.
        folder: of this run.

    Raises:
        ConfigError: nothing there.
        CheckpointCorrupt: the file, or every one in the folder, is damaged.
    """
    if ckpt_path is None:
        own = checkpoints(folder / "checkpoints")
        return _newest_whole(own) if own else None
    path = Path(ckpt_path).expanduser()
    if path.is_dir() and not (path / REST).exists():
        found = checkpoints(path / "checkpoints") or checkpoints(path)
        if not found:
            raise ConfigError(
                f"ckpt_path={ckpt_path!r}: expected a folder with checkpoints; found no "
                "iteration_*.ckpt in it. Give the folder of a run, or a checkpoint."
            )
        return _newest_whole(found)
    if not path.exists():
        raise ConfigError(
            f"ckpt_path={ckpt_path!r}: expected a file or a folder; there is none. Give the folder "
            "of a run, or a checkpoint."
        )
    if reason := damage(path):
        raise CheckpointCorrupt(_named(path, reason) + _offer(path))
    return path


def _newest_whole(files: list[Path]) -> Path:
    for file in reversed(files):
        reason = damage(file)
        if reason is None:
            return file
        warnings.warn(_named(file, reason) + " Going on from the one before it.", stacklevel=2)
    raise CheckpointCorrupt(
        f"ckpt_path: expected a whole checkpoint in {files[0].parent}; found {len(files)}, all "
        "damaged. Start again in a new folder."
    )


def _named(file: Path, reason: str) -> str:
    return f"ckpt_path: {file} is truncated or corrupt ({reason})."


def _offer(file: Path) -> str:
    before = [f for f in checkpoints(file.parent) if f.name < file.name and damage(f) is None]
    if before:
        return f" The one before it is whole: ckpt_path={before[-1]}"
    return " There is no whole one before it."
