"""A console that takes no run down with it: full, closed, gone, or without the letters."""

from __future__ import annotations

import os
import sys
from typing import Any


class PatientStream:
    """A text stream whose writes never fail.

    What cannot be written is dropped, and all that follows it: a run of months must not end because
    its terminal has. Characters that the stream's encoding lacks are written as escapes.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write `text`, or drop it."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):  # a ValueError: it is closed
            self._drop()
        return len(text)

    def flush(self) -> None:
        """Flush what the stream holds, or drop it."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._drop()

    def _drop(self) -> None:
        """Let the stream lead nowhere, for what it still holds as for what is to come."""
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            self._stream = open(os.devnull, "w")  # noqa: SIM115

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def be_patient() -> None:
    """Make the console patient, and have all three streams exist.

    A process that is started without one would give its number to the next file that it opens,
    and others would write into that.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w")  # noqa: SIM115
        if not isinstance(stream, PatientStream):
            setattr(sys, name, PatientStream(stream))


def visible(text: str) -> str:
    """Return `text` with every character that is not shown, but acts, as an escape.

    A response may hold any, and a terminal obeys them.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()
