"""``train.py`` killed again and again ends where the run that was never killed ends, bit for bit.

The 20 kills: ``pytest -m slow -s tests/integration/test_kills.py`` prints their table.
"""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gprl_lightning.runtime.checkpoint_files import checkpoints, iteration_of
from gprl_lightning.runtime.preemption import EXIT_PREEMPTED
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.equality import weights_hash
from tests.processes import Forked
from tests.tiny_run import clean_environment, tiny_settings

PATIENCE = 3600  # seconds that a run may take to get somewhere


class Run:
    """The one command, in one folder."""

    def __init__(self, settings: dict, folder: Path):
        self.folder = folder
        overrides = [f"{k}={v}" for k, v in settings.items()]
        self.command = ["train.py", *overrides, f"hydra.run.dir={folder}"]
        self.log = folder.with_name(f"{folder.name}.log")

    def start(self) -> Forked:
        return Forked(self.command, clean_environment(), self.log, self.log)

    def finish(self) -> str:
        """Run to the end; the hash of the final weights."""
        assert self.start().wait(PATIENCE) == 0, self.log.read_text()[-3000:]
        return weights_hash(load_file(self.folder / "policy" / "model.safetensors"))

    @property
    def iteration(self) -> int:
        files = checkpoints(self.folder / "checkpoints")
        return iteration_of(files[-1]) if files else 0

    @property
    def partial(self) -> bool:
        return any(self.folder.glob("checkpoints/*.partial"))

    def wait_until(self, process: Forked, reached) -> None:
        end = time.monotonic() + PATIENCE
        while not reached():
            assert process.poll() is None, "the run ended too early: give it more iterations"
            assert time.monotonic() < end
            time.sleep(0.001)


@dataclass
class Kill:
    moment: str
    iteration: int  # checkpoints reached
    half_written: bool  # whether it left half a checkpoint


def killed(run: Run, moment: str, generator: random.Random, seconds: float = 0) -> Kill:
    """Start, and kill after up to so many seconds, or some iterations, or while writing."""
    process, begun = run.start(), run.iteration
    if moment == "any time":
        time.sleep(generator.uniform(0, seconds))
    else:
        target = begun + generator.randint(1, 3)
        run.wait_until(process, lambda: run.iteration >= target)
        time.sleep(generator.uniform(0, 0.1))
    if moment == "while writing":
        run.wait_until(process, lambda: run.partial)
    process.kill()
    process.wait()
    return Kill(moment, run.iteration, run.partial)


def settings(folder: Path, iterations: int) -> dict:
    return {
        **tiny_settings(folder),
        "iterations": iterations,
        "checkpoint_every": 1,
        "evaluation.judge": "none",
        "logger": "none",
        "algorithm.inner_epochs": 2,
        "algorithm.minibatches": 2,
    }


def compare(never: Run, often: Run) -> None:
    expected, found = (read_metrics(run.folder / "metrics.csv") for run in (never, often))
    for name in (n for n in expected if "time" not in n and "second" not in n):
        assert found[name] == expected[name], name


def test_two_kills_and_a_preemption(tmp_path):
    options = settings(tmp_path, iterations=24)
    never, often = Run(options, tmp_path / "never"), Run(options, tmp_path / "often")
    expected = never.finish()
    generator = random.Random(0)
    for moment in ("some iterations", "while writing"):
        killed(often, moment, generator)
    process, begun = often.start(), often.iteration
    often.wait_until(process, lambda: often.iteration > begun)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == EXIT_PREEMPTED == 75
    assert 0 < often.iteration < 24
    assert often.finish() == expected
    compare(never, often)


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    options = settings(tmp_path, iterations=200)
    never, often = Run(options, tmp_path / "never"), Run(options, tmp_path / "often")
    begin, first = time.monotonic(), never.start()
    never.wait_until(first, lambda: never.iteration > 0)
    seconds = 1.3 * (time.monotonic() - begin)  # to start, and a little more
    assert first.wait(PATIENCE) == 0
    expected = never.finish()  # nothing left to do
    generator = random.Random(1)
    moments = ["any time"] * 8 + ["some iterations"] * 5 + ["while writing"] * 7
    generator.shuffle(moments)
    kills = [killed(often, moment, generator, seconds) for moment in moments]
    for number, kill in enumerate(kills, 1):
        half = "left half a checkpoint" if kill.half_written else ""
        print(f"{number:2d}  {kill.moment:16s} iteration {kill.iteration:3d}  {half}")
    assert sum(kill.half_written for kill in kills) >= 3
    found = often.finish()
    print(f"never killed: {expected}   killed {len(kills)} times: {found}")
    assert found == expected
    compare(never, often)
