"""Answers on disk, one file each, so that what was paid for once is never asked again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gprl_lightning.runtime.chat import Answer, request_key


class AnswerCache:
    """Answers by the SHA-256 of the request's body, in ``folder/ab/abcd….json``.

    A file appears by renaming, so that several processes may share the folder. A file that is cut
    short, changed, or of another request counts as absent: its question is asked again.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def file(self, body: Mapping[str, Any]) -> Path:
        """Return where the answer to `body` stands."""
        key = request_key(body)
        return self.folder / key[:2] / f"{key}.json"

    def get(self, body: Mapping[str, Any]) -> Answer | None:
        """Return the stored answer, marked as cached, or None."""
        file = self.file(body)
        try:
            entry = json.loads(file.read_text(encoding="utf8"))
            answer = entry["answer"]
            if request_key(entry["request"]) != file.stem or entry["checksum"] != _checksum(answer):
                return None
            logprobs = answer.pop("top_logprobs")
            found = Answer(**answer, top_logprobs=None if logprobs is None else tuple(logprobs))
            return replace(found, cached=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def put(self, body: Mapping[str, Any], answer: Answer) -> None:
        """Store the answer to `body`."""
        file = self.file(body)
        file.parent.mkdir(parents=True, exist_ok=True)
        stored = asdict(replace(answer, cached=False))
        entry = {"request": body, "answer": stored, "checksum": _checksum(stored)}
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf8") as out:
                json.dump(entry, out, ensure_ascii=False)
            os.replace(name, file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _checksum(answer: Mapping[str, Any]) -> str:
    text = json.dumps(answer, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
