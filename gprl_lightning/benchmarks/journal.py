"""Answers as they are made, one line each: a run that was cut off does not make them again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

JOURNAL = "answers.jsonl"


class Journal:
    """A file of answers, whose first line says what made them.

    Args:
        file: the file. Answers that something else made are dropped, and so is a last line that was
            cut off.
        made_by: all that determines an answer.
    """

    def __init__(self, file: Path, made_by: Mapping[str, Any]) -> None:
        self.file = file
        self._texts: dict[tuple[int, str], str] = {}
        rows = _rows(file)
        if rows[:1] == [dict(made_by)]:
            self._texts = {(row["turn"], row["uid"]): row["text"] for row in rows[1:]}
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = [{"turn": t, "uid": u, "text": x} for (t, u), x in self._texts.items()]
        partial = file.with_suffix(".part")
        partial.write_text("".join(map(_line, [dict(made_by), *kept])), encoding="utf8")
        partial.replace(file)

    def batch(self, turn: int, uids: Sequence[str]) -> dict[str, str] | None:
        """Return one turn's answers to these questions; None unless all of them are there."""
        keys = [(turn, uid) for uid in uids]
        if not all(key in self._texts for key in keys):
            return None
        return {uid: self._texts[key] for uid, key in zip(uids, keys, strict=True)}

    def add(self, turn: int, texts: Mapping[str, str]) -> None:
        """Keep the answers of one turn, by the questions' uids."""
        self._texts |= {(turn, uid): text for uid, text in texts.items()}
        lines = [_line({"turn": turn, "uid": uid, "text": text}) for uid, text in texts.items()]
        with self.file.open("a", encoding="utf8") as out:
            out.write("".join(lines))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    *whole, _ = file.read_text(encoding="utf8").split("\n")  # behind the last newline: cut off
    return [json.loads(line) for line in whole]
