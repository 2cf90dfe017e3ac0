"""Progress for the eye, or for a file: a bar on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm

EVERY = 30.0  # seconds between the lines of a file; a bar is drawn anew twice a second
LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}{postfix}]"
# Seconds per unit, also where there are several in a second.
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}{postfix}]"


class _Lines:
    """A stream for tqdm that has no carriage: each picture of the bar is a line of its own."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._last = ""

    def write(self, text: str) -> int:
        for part in text.replace("\n", "\r").split("\r"):
            # A cleared bar is blanks; the last picture is drawn once more when it is closed.
            if part.strip() and part.strip() != self._last:
                self._last = part.strip()
                self._stream.write(f"{self._last}\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def progress(
    what: Any = None,
    *,
    description: str,
    unit: str,
    total: float | None = None,
    done: int = 0,
    leave: bool = True,
    shown: bool = True,
) -> tqdm[Any]:
    """Return tqdm's bar for standard error.

    Where that is a file or a pipe, the bar is a line at the start, one each half minute, and one
    at the end.

    Args:
        what: to go through; None: `update` is called by hand.
        description: stands before it.
        unit: what is counted.
        total: how many there will be; None: the length of `what`.
        done: how many are done already.
        leave: a finished bar stays on the terminal.
        shown: False shows nothing.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        what,
        desc=description,
        unit=unit,
        total=total,
        initial=done,
        leave=leave if terminal else True,
        file=sys.stderr if terminal else _Lines(sys.stderr),  # type: ignore[arg-type]
        dynamic_ncols=terminal,
        ncols=None if terminal else 200,
        bar_format=BAR if terminal else LINE,
        mininterval=0.5 if terminal else EVERY,
        maxinterval=EVERY,
        disable=not shown,
    )
