"""Progress in a file: a line at the start, one now and then, one at the end, and no carriage."""

from __future__ import annotations

import io
import sys

import pytest

from gprl_lightning.runtime import progress as module
from gprl_lightning.runtime.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch, stream: io.StringIO, **options) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    for _ in progress(range(3000), description="steps", unit="step", **options):
        pass
    return stream.getvalue()


@pytest.mark.parametrize("leave", [True, False])
def test_a_file_gets_two_lines_of_a_quick_loop(monkeypatch, leave):
    text = shown(monkeypatch, io.StringIO(), leave=leave)
    lines = text.splitlines()
    assert [line.partition(" [")[0] for line in lines] == ["steps: 0/3000", "steps: 3000/3000"]
    assert "\r" not in text and len(text.encode()) < 120


def test_a_file_gets_a_line_each_time_that_the_wait_is_over(monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)
    text = shown(monkeypatch, io.StringIO())
    assert len(text.splitlines()) > 10 and "\r" not in text


def test_a_terminal_gets_a_bar(monkeypatch):
    text = shown(monkeypatch, Terminal())
    assert "\r" in text and "100%" in text


def test_what_is_not_shown_writes_nothing(monkeypatch):
    assert shown(monkeypatch, io.StringIO(), shown=False) == ""
