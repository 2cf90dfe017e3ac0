"""Rows of JSON, JSON Lines and parquet files, and their errors by file and line."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gprl_lightning.data.rows import file_rows, require_some
from gprl_lightning.errors import ConfigError

PROMPTS = Path(__file__).parent / "prompts"


def judge_prompt(name: str) -> str:
    """Return a judge's prompt as its authors published it; see ``prompts/README.md``."""
    return (PROMPTS / name).read_text(encoding="utf8")


def filled(template: str, fields: Mapping[str, str]) -> str:
    """Return a template with each field, such as ``{question}``, replaced by its text.

    All at once, so that a text that looks like a field stays a text.
    """
    pattern = "|".join(re.escape(name) for name in fields)
    return re.sub(pattern, lambda m: fields[m[0]], template)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a ``.json``, ``.jsonl`` or ``.parquet`` file.

    Raises:
        ConfigError: there is no such file or no row in it, or a row is no JSON object.
    """
    rows: list[dict[str, Any]] = []
    for where, row in file_rows(file, "benchmark.path"):
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: expected an object, found {type(row).__name__}.")
        rows.append(row)
    require_some(rows, str(file), "benchmark.path")
    return rows


def value(row: Mapping[str, Any], key: str, file: Path) -> Any:
    """Return ``row[key]``.

    Raises:
        ConfigError: there is none.
    """
    if key not in row:
        raise ConfigError(
            f"{file}: expected the key {key!r} in each row, found {sorted(row)[:20]}."
        )
    return row[key]


def write_jsonl(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write one JSON object per line. Return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf8"
    )
    return file


def write_json(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write one JSON list. Return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(list(rows), ensure_ascii=False, indent=2)
    file.write_text(text + "\n", encoding="utf8")
    return file


def short_id(*parts: str) -> str:
    """Return 22 hexadecimal digits that depend on `parts` alone: the name of an answer."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:22]


def one_line(model: str) -> str:
    """Return a model's name as a file's: without slashes."""
    return model.replace("/", "__")
