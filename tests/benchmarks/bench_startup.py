"""How long it takes to get going: the package's import, ``--help``, and a run's first rollout.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_startup [--repeats 5] [overrides]

CPU-seconds of fresh processes, medians; on a machine with nothing else to do, wall-clock seconds
are about the same, and are told beside. The last ones are of ``train.py`` on the sandbox with
its preference model in the cache, from the start of the process to the end of the first training
iteration's rollout: as it is, and without the held-out answers that a run samples and judges before
it begins to train (``evaluation.judge=none``).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import lightning as L
import psutil

from gprl_lightning.tracking import metrics
from tests.benchmarks.turns import ROOT

MARK = "STARTED "
ROWS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import torch, lightning, transformers, hydra, wandb": [
        "-c",
        "import torch, lightning, hydra, wandb; from transformers import LlamaForCausalLM",
    ],
    "import gprl_lightning": ["-c", "import gprl_lightning"],
    "import gprl_lightning.core.losses": ["-c", "import gprl_lightning.core.losses"],
    "train.py --help": ["train.py", "--help"],
}
RUNS = {"train.py": [], "without held-out answers": ["evaluation.judge=none"]}
TO_FIRST_ROLLOUT, IMPORT = 8.0, 0.3


class Stamps(L.Callback):
    """CPU- and wall-clock seconds of the process when training is set up, begins, has sampled."""

    def __init__(self) -> None:
        self.found: dict[str, Sequence[float]] = {}

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        self.found["models loaded"] = _now()

    def on_train_batch_start(self, *_: Any) -> None:
        self.found["training begins"] = _now()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        cpu, wall = self.found["training begins"]
        end_cpu, end_wall = _now()
        took = float(trainer.callback_metrics[metrics.TIME_ROLLOUT])  # by the clock
        share = took / (end_wall - wall)
        self.found["first rollout"] = (cpu + share * (end_cpu - cpu), wall + took)
        print(f"\n{MARK}{json.dumps(self.found)}", flush=True)
        os._exit(0)


def _now() -> tuple[float, float]:
    return time.process_time(), time.time() - psutil.Process().create_time()


def spent(arguments: Sequence[str]) -> tuple[float, float]:
    """(CPU-, wall-clock seconds) of a Python process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def first_rollout(overrides: Sequence[str]) -> dict[str, Sequence[float]]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                sys.executable, "train.py", *overrides, f"hydra.run.dir={folder}",
                "+callbacks.stamps._target_=tests.benchmarks.bench_startup.Stamps",
            ],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True,
        )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(lines[-1].removeprefix(MARK))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'':62}{'CPU-s':>8}{'wall-clock s':>14}")
    medians = {}
    for name, arguments in ROWS.items():
        times = [spent(arguments) for _ in range(options.repeats)]
        medians[name], wall = (median(column) for column in zip(*times, strict=True))
        print(f"{name:62}{medians[name]:8.2f}{wall:14.2f}", flush=True)
    own = medians["import gprl_lightning"] - medians["python"]
    print(f"{'of the import, our own':62}{own:8.2f}{'':14}  target {IMPORT}: {_met(own, IMPORT)}")
    if options.repeats > 1:
        first_rollout(options.overrides)  # trains the preference model, if it is not in the cache
    for command, more in RUNS.items():
        runs = [first_rollout([*options.overrides, *more]) for _ in range(options.repeats)]
        for name in runs[0]:
            cpu, wall = (median(run[name][i] for run in runs) for i in (0, 1))
            print(f"{command + ', until: ' + name:62}{cpu:8.2f}{wall:14.2f}")
        print(f"target of the last: {TO_FIRST_ROLLOUT:.0f}: {_met(cpu, TO_FIRST_ROLLOUT)} in CPU-s")


def _met(value: float, target: float) -> str:
    return "met" if value <= target else "NOT met"


if __name__ == "__main__":
    main()
