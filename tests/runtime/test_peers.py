"""Who is named when processes do not meet: by what each has left word of."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from torch import distributed as dist

from gprl_lightning.runtime.peers import Children, Meetings, Watch, died_of

TIMEOUT = 0.6


class Two:
    """This process, rank 0, under watch, and the word that another one leaves."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.store, self.meetings, self.said = dist.HashStore(), Meetings(), []
        self.watch = Watch(self.store, 0, 2, timeout, self.said.append, self.meetings)
        self.beats = 0
        self.watch.start()

    def word(self, count: int, purpose: str = "a barrier") -> None:
        self.beats += 1
        self.store.set("1", json.dumps([count, self.beats, "process 77 on node7", purpose]))

    def pass_by(self, seconds: float, *word) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if word:
                self.word(*word)
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.watch.stopped.set()
        self.watch.join()


def test_where_another_process_is_is_known_soon_after_it_says_so():
    """Long before the second regular look, after 5 s: it could not be named if it stopped then."""
    with Two(timeout=100) as run:
        time.sleep(0.1)
        run.word(1)
        end = time.monotonic() + 4
        while run.watch.peers[1].where != "process 77 on node7":
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_process_that_does_not_come_is_named_with_what_it_is_at():
    with Two() as run:
        run.meetings.set_out("the sum of gradients")
        run.pass_by(3 * TIMEOUT, 0, "a training step")
        (message,) = run.said
        for part in (
            "peer_timeout",
            "rank 0",
            "the sum of gradients",
            "rank 1, process 77 on node7",
        ):
            assert part in message
        assert "alive, and still at: a training step" in message


def test_a_process_that_is_silent_is_named():
    """As one that is stopped within the same collective is."""
    with Two() as run:
        run.meetings.set_out("a sum over processes")
        run.word(1)
        run.pass_by(3 * TIMEOUT)
        (message,) = run.said
        assert "rank 1, process 77 on node7, silent for" in message


def test_long_work_of_its_own_is_nobody_s_fault():
    """Both have met as often: each is computing, or the slower one is this one."""
    with Two() as run:
        run.meetings.set_out("a sum over processes")
        run.pass_by(3 * TIMEOUT, 1)
        run.pass_by(2 * TIMEOUT, 2)
        assert run.said == []
        told = json.loads(run.store.get("0"))
        assert told[0] == 1 and told[1] > 5 and told[3] == "a sum over processes"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; sys.exit(2)", "ended with exit code 2"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL, as the kernel does when"),
    ],
)
def test_a_child_that_dies_is_named_with_its_last_words(tmp_path, monkeypatch, code, says):
    monkeypatch.setattr("gprl_lightning.runtime.peers.GRACE", 0.1)
    log = tmp_path / "child.log"
    log.write_text("first\nConfigError: no such device\n")
    said = []
    children = Children([subprocess.Popen([sys.executable, "-c", code])], [log], said.append)
    children.start()
    children.join(30)
    (message,) = said
    assert f"local rank 1 (process {children.processes[0].pid}) {says}" in message
    assert message.endswith("ConfigError: no such device")


def test_children_that_end_well_end_nothing():
    said = []
    process = subprocess.Popen([sys.executable, "-c", ""])
    children = Children([process], [], said.append)
    process.wait()
    assert died_of(-11) == "was ended by SIGSEGV."
    children.logs = ["none"]
    assert children.lost() == "" and said == []
