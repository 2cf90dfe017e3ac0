"""3,000 iterations, killed or told to stop every 50 or so, end where the undisturbed run ends.

And hold no more memory (but for the rows of metrics.csv), files and threads at the end than at the
beginning. Prints its figures:
``pytest -m slow -s tests/integration/test_soak.py``.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from gprl_lightning.runtime.preemption import EXIT_PREEMPTED
from tests.integration.test_kills import Run, compare, settings

ITERATIONS, BETWEEN = 3000, 50
EVERY = 5  # iterations between checkpoints
ROW = 10  # kilobytes at most of a row of metrics.csv, which are all kept


@dataclass(frozen=True)
class Held:
    """What a process holds, by the kernel's count."""

    iteration: int
    megabytes: float
    files: int
    threads: int


def held(process: subprocess.Popen, iteration: int) -> Held:
    folder = Path(f"/proc/{process.pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    megabytes = int(status["VmRSS"].split()[0]) / 1024
    files = []
    for _ in range(5):  # a checkpoint that is being written is one more
        files.append(len(list((folder / "fd").iterdir())))
        time.sleep(0.02)
    return Held(iteration, megabytes, min(files), int(status["Threads"]))


def watched(run: Run, process: subprocess.Popen, until: int) -> Iterator[Held]:
    """What it holds at each tenth checkpoint, until it has reached this iteration or has ended."""
    seen = run.iteration
    while process.poll() is None and run.iteration < until:
        if run.iteration >= seen + 10 * EVERY:
            seen = run.iteration
            yield held(process, seen)
        time.sleep(0.01)


def soak(folder: Path, iterations: int, between: int) -> None:
    options = {
        **settings(folder, iterations),
        "checkpoint_every": EVERY,
        "data.prompts_per_step": 1,
        "rollout.group_size": 2,
        "rollout.max_new_tokens": 4,
        "algorithm.inner_epochs": 1,
        "algorithm.minibatches": 1,
        "callbacks.rollout_table.every": 500,
    }
    never, often = Run(options, folder / "never"), Run(options, folder / "often")
    begun = time.monotonic()
    process = never.start()
    whole = list(watched(never, process, iterations))
    assert process.wait() == 0
    minutes = (time.monotonic() - begun) / 60
    expected = never.finish()  # nothing left to do
    print(f"\nundisturbed: {minutes:.1f} minutes, {60 * minutes / iterations:.3f} s an iteration")
    growth = slope([(h.iteration, h.megabytes) for h in whole[len(whole) // 5 :]])
    print(
        f"memory {whole[0].megabytes:.0f} to {whole[-1].megabytes:.0f} MB, {growth:.2f} per 1,000"
    )
    assert_flat([whole[len(whole) // 5], whole[-1]])

    generator, attempts, last = random.Random(2), [], []
    while often.iteration < iterations - 2 * between:
        process, number = often.start(), generator.choice([signal.SIGKILL, signal.SIGTERM])
        target = often.iteration + generator.randint(between // 2, 3 * between // 2)
        list(watched(often, process, target))
        assert process.poll() is None, "the run ended by itself"
        last.append(held(process, often.iteration))
        time.sleep(generator.uniform(0, 0.1))
        process.send_signal(number)
        code = process.wait()
        assert code == (EXIT_PREEMPTED if number == signal.SIGTERM else -signal.SIGKILL)
        attempts.append((signal.Signals(number).name, often.iteration))
    found = often.finish()
    names = [name for name, _ in attempts]
    print(f"{names.count('SIGKILL')} kills, {names.count('SIGTERM')} signals, at {attempts}")
    growth = slope([(i, h.megabytes) for i, h in enumerate(last)])
    sizes = [h.megabytes for h in last]
    print(f"memory of an attempt {min(sizes):.0f} to {max(sizes):.0f} MB, {growth:.2f} per 1000")
    files, threads = ({getattr(h, n) for h in whole + last} for n in ("files", "threads"))
    print(f"files {sorted(files)}, threads {sorted(threads)}")
    print(f"undisturbed: {expected}   {len(attempts)} times disturbed: {found}")
    assert found == expected
    compare(never, often)
    assert_flat([last[1], last[-1]])


def slope(points: list[tuple[int, float]]) -> float:
    """Megabytes per 1,000 steps."""
    x, y = zip(*points, strict=True)
    return 1000 * float(np.polyfit(x, y, 1)[0])


def assert_flat(samples: list[Held]) -> None:
    early, late = samples
    rows = (late.iteration - early.iteration) * ROW / 1024
    assert late.megabytes < 1.02 * early.megabytes + rows, samples
    assert (late.files, late.threads) == (early.files, early.threads), samples


@pytest.mark.slow
def test_three_thousand_iterations(tmp_path):
    soak(tmp_path, ITERATIONS, BETWEEN)
