"""What a preference model's files say about its head, read without loading a tensor (or torch)."""

from __future__ import annotations

import json
import struct
from pathlib import Path

HEADS = ("value_head.weight", "score.weight")


def head_rows(folder: Path) -> int | None:
    """Rows of the value head (2k of a GPM, 1 of Bradley-Terry) in a folder; None if there is none.

    Reads the headers of the safetensors files: eight bytes of length, then JSON with every tensor's
    shape.
    """
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            tensors = json.loads(stream.read(length))
        for name in HEADS:
            if name in tensors:
                return int(tensors[name]["shape"][0])
    return None
