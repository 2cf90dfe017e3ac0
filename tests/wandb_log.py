"""Reads the log of an offline W&B run back: what was really written, and not what a mock was told.

The log is LevelDB's: blocks of 32 KiB with checked fragments. Each record is one of wandb's public
messages.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7
FULL, FIRST, LAST = 1, 2, 4  # 3: in the middle


@dataclass
class OfflineRun:
    """A run as it would be sent."""

    about: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    step_metrics: dict[str, str] = field(default_factory=dict)  # x-axis by metric or pattern
    artifacts: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    exit_code: int | None = None  # None: the run was not closed

    def values(self, name: str) -> list[Any]:
        """A metric's values in order."""
        return [row[name] for row in self.history if name in row]


def offline_folders(folder: Path) -> list[Path]:
    """The offline runs anywhere under `folder`, oldest first."""
    return sorted(folder.rglob("offline-run-*"))


def read_offline_run(folder: Path) -> OfflineRun:
    """The run in an ``offline-run-…`` folder.

    Raises:
        ValueError: the log is damaged.
    """
    (file,) = folder.glob("run-*.wandb")
    run = OfflineRun()
    for record in _records(file.read_bytes()):
        _apply(run, record)
    return run


def _apply(run: OfflineRun, record: Any) -> None:
    match record.WhichOneof("record_type"):
        case "run":
            names = (
                "run_id",
                "project",
                "entity",
                "display_name",
                "run_group",
                "job_type",
                "notes",
            )
            run.about |= {name: getattr(record.run, name) for name in (*names, "sweep_id")}
            run.about["tags"] = list(record.run.tags)
            _update(run.config, record.run.config.update)
        case "config":
            _update(run.config, record.config.update)
        case "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            run.history.append(row)
        case "summary":
            _update(run.summary, record.summary.update)
        case "metric":
            metric = record.metric
            run.step_metrics[metric.name or metric.glob_name] = metric.step_metric
        case "artifact":
            run.artifacts.append(record.artifact.name)
        case "files":
            run.files += [file.path for file in record.files.files]
        case "exit":
            run.exit_code = record.exit.exit_code


def _update(target: dict[str, Any], items: Any) -> None:
    for item in items:
        *path, last = list(item.nested_key) or [item.key]
        place = target
        for key in path:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)


def _records(data: bytes) -> Iterator[Any]:
    magic, at, whole = data[:4], 7, b""
    if magic != b":W&B":
        raise ValueError(f"not a W&B log: it starts with {magic!r}")
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:  # the rest of a block is padding
            at += left
            continue
        checksum, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        if kind == 0 and length == 0:  # room that was reserved and not used
            at += left
            continue
        part = data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if zlib.crc32(part, zlib.crc32(bytes([kind]))) & 0xFFFFFFFF != checksum:
            raise ValueError(f"damaged record before byte {at}")
        whole = part if kind in (FULL, FIRST) else whole + part
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
