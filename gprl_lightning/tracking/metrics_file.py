"""Reads ``metrics.csv``; loads neither torch nor Lightning for it, so that a report is quick."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from gprl_lightning.errors import ConfigError
from gprl_lightning.tracking.metrics import ITERATION


def read_rows_of(file: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns of a ``metrics.csv`` and its whole rows, without torn and blank ones.

    A file that is missing, empty or filled with NULs has none.
    """
    if not file.exists():
        return [ITERATION], []
    text = file.read_text(encoding="utf8", errors="replace").replace("\0", "")
    lines = [line for line in text.splitlines(keepends=True) if line.strip()]
    reader = csv.DictReader(lines)
    columns = list(reader.fieldnames or [])
    if ITERATION not in columns or len(set(columns)) < len(columns):
        return [ITERATION], []
    return columns, [row for row in reader if _is_whole(row)]


def _is_whole(row: dict[Any, Any]) -> bool:
    try:
        return None not in row and None not in row.values() and int(row[ITERATION]) >= 0
    except ValueError:
        return False


def read_metrics(file: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """Return the columns of a ``metrics.csv``: for each metric its (iterations, values), gaps left
    out.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it holds something besides numbers.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: expected a run's metrics.csv; there is none.")
    out: dict[str, tuple[list[int], list[float]]] = {}
    for row in read_rows_of(Path(file))[1]:
        for name, cell in row.items():
            if cell != "" and name != ITERATION:
                steps, values = out.setdefault(name, ([], []))
                steps.append(int(row[ITERATION]))
                values.append(_number(cell, name, file))
    return out


def _number(cell: str, name: str, file: str | Path) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ConfigError(
            f"{file}: expected numbers under {name}; found {cell[:40]!r}. Put the file back."
        ) from None
