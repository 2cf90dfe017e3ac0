"""Checkpoint files of a run: which there are, which are whole, and which one to go on from."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

from gprl_lightning.errors import CheckpointCorrupt, ConfigError


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
    checksums."""
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except Exception as error:  # whatever a damaged archive makes zipfile raise
        return f"{type(error).__name__}: {error}"
    return None if broken is None else f"{broken} does not have its checksum"


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
    if path.is_dir():
        found = checkpoints(path / "checkpoints") or checkpoints(path)
        if not found:
            raise ConfigError(
                f"ckpt_path={ckpt_path!r}: expected a folder with checkpoints; found no "
                "iteration_*.ckpt in it. Give the folder of a run, or a checkpoint."
            )
        return _newest_whole(found)
    if not path.is_file():
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
