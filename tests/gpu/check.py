"""Everything of this project that only a GPU can settle, in one command of eight minutes.

    python -m tests.gpu.check [--minutes 8] [--out gpu.json]     # on a machine with a GPU
    python -m tests.gpu.check --toy                              # the script itself, on a CPU

First what must be right: sampling, gradients, precisions, a resume. Then a run of the sandbox, and
of SmolLM2-135M where its weights are. Then, with what time is left, an 8B-shaped policy with LoRA
and a 1B-shaped one beside TRL (`tests.benchmarks.bench_gpu`): tokens a second against what the
memory's bandwidth allows, MFU, peak memory. No network is needed. One table is printed, one JSON
written; a check that could not run says why.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from tests.gpu import correctness, profiles, runs
from tests.gpu.correctness import Finding

ROOT = Path(__file__).parents[2]


class Report:
    """Findings as they come, printed and kept; nothing new is begun once the time is up."""

    def __init__(self, minutes: float, out: Path) -> None:
        self.started, self.limit, self.out = perf_counter(), 60 * minutes, out
        self.rows: dict[str, Any] = {}

    @property
    def left(self) -> float:
        return self.limit - (perf_counter() - self.started)

    def add(self, name: str, check: Callable[[], Finding], needs: float = 0.0) -> None:
        """Make a check, if ``needs`` seconds are left for it."""
        if self.left < needs:
            finding = Finding({"not run": f"{self.left:.0f} s left, needs {needs:.0f}"}, True)
        else:
            try:
                finding = check()
            except Exception as error:  # the others must still run, and nobody sees this machine
                finding = Finding({"error": f"{type(error).__name__}: {error}"[-1500:]}, False)
                traceback.print_exc()
        figures = ", ".join(f"{k} {_short(v)}" for k, v in finding.figures.items())
        print(f"{'ok  ' if finding.holds else 'FAIL'} {name:38} {figures}", flush=True)
        self.rows[name] = {"holds": finding.holds, **finding.figures}
        self.write()

    def note(self, name: str, found: dict[str, Any]) -> None:
        self.rows[name] = found
        self.write()

    def write(self) -> None:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
        head = {"device": device, "torch": torch.__version__}
        self.out.write_text(json.dumps({**head, "checks": self.rows}, indent=1, default=str))


def _short(value: float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)[:300]


def command(*arguments: str, seconds: float) -> Finding:
    """Run a module of this project; its printed lines are the figures."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=seconds
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()][-12:]
    if done.returncode:
        return Finding({"error": (done.stdout + done.stderr)[-1500:]}, False)
    return Finding({"printed": " | ".join(lines)}, True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="small, on whatever there is")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args(arguments)
    if not (torch.cuda.is_available() or options.toy):
        parser.error("no CUDA device; --toy runs the script itself on a CPU")
    report = Report(options.minutes, options.out)
    for name, check in correctness.CHECKS.items():
        report.add(name, check)
    report.note("profile of a rollout", profiles.rollout_profile())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        kinds = list(runs.KINDS.items())[: 2 if options.toy else None]
        for name, overrides in kinds:
            report.add(f"two iterations, {name}",
                       lambda o=overrides: runs.two_iterations(root, *o), 40)  # fmt: skip
        if not options.toy:
            report.add("peak memory and the plan", runs.peak_is_as_planned, 60)
            masters = ("policy.dtype=bfloat16", "trainer.precision=32-true",
                       "optimizer=adamw_masters")  # fmt: skip
            report.add("peak memory and the plan, masters",
                       lambda: runs.peak_is_as_planned(*masters), 60)  # fmt: skip
            report.add("a resume is bit-equal", lambda: runs.resume_is_bit_equal(root), 60)
            _speed(report, root)
    return 0 if all(row.get("holds", True) for row in report.rows.values()) else 1


def _speed(report: Report, root: Path) -> None:
    bench = "tests.benchmarks.bench_gpu"
    sandbox = ("train.py", "trainer=gpu", "iterations=20", "logger=csv")
    report.add(
        "the sandbox, 20 iterations",
        lambda: command(*sandbox, f"hydra.run.dir={root / 'sandbox'}", seconds=report.left),
        60,
    )
    smollm2 = ("train.py", "experiment=smollm2_135m", "trainer=gpu", "iterations=20")
    report.add(
        "SmolLM2-135M, 20 iterations",
        lambda: command(*smollm2, f"hydra.run.dir={root / 'smollm2'}", seconds=report.left),
        60,
    )
    cache = ("--cache", str(root / "worlds"))
    report.add(
        "8B shape, LoRA",
        lambda: command("-m", bench, "--prompts", "8", "--without-trl", *cache,
                        seconds=report.left),
        120,
    )  # fmt: skip
    report.add(
        "1B shape, all weights, beside TRL",
        lambda: command("-m", bench, "--shape", "1b", "--full", *cache, seconds=report.left),
        90,
    )


if __name__ == "__main__":
    sys.exit(main())
