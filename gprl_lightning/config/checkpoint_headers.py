"""What a model's files say about its weights, read without loading a tensor (or torch)."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HEADS = ("value_head.weight", "score.weight")


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of the model in a folder: those that transformers reads.

    One file by its name, or the shards that the index lists. Others beside them, such as a backup
    or another model's, do not count.

    Raises:
        ValueError: the index is no index.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    index = json.loads((folder / INDEX).read_text(encoding="utf8"))
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict):
        raise ValueError(f"{INDEX} has no weight_map")
    return [folder / name for name in sorted({str(name) for name in shards.values()})]


def head_shape(folder: Path) -> tuple[str, int] | None:
    """Return the kind that a folder's head is of, and its axes; None if there is no head.

    A file that cannot be read, or a head that no kind has (5 rows), counts as none: loading says
    what is wrong with it.
    """
    try:
        headers = [_header(file) for file in weight_files(folder)]
        for tensors in headers:
            for name in HEADS:
                if name in tensors:
                    rows = int(tensors[name]["shape"][0])
                    if rows == 1:
                        return "bradley_terry", 1
                    if name == "score.weight":
                        return "multi_head", rows
                    return None if rows % 2 else ("gpm", rows // 2)
    except (OSError, ValueError, struct.error, MemoryError, TypeError, LookupError):
        return None
    return None


def _header(file: Path) -> dict[str, Any]:
    """Eight bytes of length, then JSON with every tensor's shape."""
    with file.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0]
        return json.loads(stream.read(min(length, file.stat().st_size)))
