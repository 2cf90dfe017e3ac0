"""Everything of this project that only a GPU can settle, in one command of eight minutes.

    python -m tests.gpu.check [--minutes 8] [--parts right fast] # on a machine with a GPU
    python -m tests.gpu.check --toy                              # the script itself, on a CPU

First what must be right: sampling, gradients, precisions, a resume. Then an 8B-shaped policy with
LoRA and a 1B-shaped one beside TRL (`tests.benchmarks.bench_gpu`): tokens a second against what the
memory's bandwidth allows, MFU, peak memory, the longest kernels. Then, with what time is left, runs
of the sandbox and of SmolLM2-135M. No network is needed (`tests.gpu.carry` fetches what such a
machine lacks). One table is printed, one JSON written; a check that could not run says why.
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
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from shutil import rmtree
from time import perf_counter
from typing import Any

import torch

from tests.gpu import correctness, runs
from tests.gpu.correctness import Finding

ROOT = Path(__file__).parents[2]
PARTS = ("right", "fast")
SIDE_BY_SIDE = 6  # processes on one device


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

    def add_side_by_side(
        self, checks: dict[str, Callable[[], Finding]], meanwhile: dict[str, Callable[[], Finding]]
    ) -> None:
        """Make checks that are processes of their own at once, and some here: none is timed."""
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            started = {name: pool.submit(check) for name, check in checks.items()}
            for name, check in meanwhile.items():
                self.add(name, check, 40)
            for name, made in started.items():
                self.add(name, made.result)

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
    with tempfile.TemporaryFile("w+") as out:
        done = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, text=True
        )
        try:
            code: int | str = done.wait(seconds)
        except subprocess.TimeoutExpired:
            done.kill()
            code = f"not done in {seconds:.0f} s"
        out.seek(0)
        printed = out.read()
    if code:
        return Finding({"ended": str(code), "error": printed[-1500:]}, False)
    lines = [line for line in printed.splitlines() if line.strip()][-12:]
    return Finding({"printed": " | ".join(lines)}, True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="small, on whatever there is")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--smollm2", type=Path, help="config and tokenizer: weights are random")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args(arguments)
    if not (torch.cuda.is_available() or options.toy):
        parser.error("no CUDA device; --toy runs the script itself on a CPU")
    report = Report(options.minutes, options.out)
    if "right" in options.parts:
        _right(report, options.toy)
    if "fast" in options.parts and not options.toy:
        with tempfile.TemporaryDirectory() as folder:
            _fast(report, Path(folder), options.smollm2)
    return 0 if all(row.get("holds", True) for row in report.rows.values()) else 1


def _right(report: Report, toy: bool) -> None:
    for name, check in correctness.CHECKS.items():
        report.add(name, check)
    tokens = 16 if toy else correctness.SAMPLING.max_new_tokens
    report.note("profile of a rollout", correctness.rollout_profile(tokens))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        checks: dict[str, Callable[[], Finding]] = {
            f"two iterations, {name}": partial(runs.two_iterations, root / f"kind_{i}", *overrides)
            for i, (name, overrides) in enumerate([*runs.KINDS.items()][: 2 if toy else None])
        }
        meanwhile: dict[str, Callable[[], Finding]] = {}
        if not toy:
            checks["a resume is bit-equal"] = partial(runs.resume_is_bit_equal, root / "resume")
            masters = ("policy.dtype=bfloat16", "trainer.precision=32-true",
                       "optimizer=adamw_masters")  # fmt: skip
            meanwhile = {
                "peak memory and the plan": runs.peak_is_as_planned,
                "peak memory and the plan, masters": partial(runs.peak_is_as_planned, *masters),
            }
        report.add_side_by_side(checks, meanwhile)


def _fast(report: Report, root: Path, smollm2: Path | None) -> None:
    bench = "tests.benchmarks.bench_gpu"
    cache = ("--cache", str(root / "worlds"))
    kernels = root / "kernels.json"
    report.add(
        "8B shape, LoRA",
        lambda: command("-m", bench, "--prompts", "8", "--without-trl", *cache,
                        "--profile", str(kernels), seconds=report.left),
        120,
    )  # fmt: skip
    if kernels.exists():
        report.note("8B shape, LoRA: kernels", json.loads(kernels.read_text()))
    rmtree(root / "worlds", ignore_errors=True)
    report.add(
        "1B shape, all weights, beside TRL",
        lambda: command("-m", bench, "--shape", "1b", "--full", *cache, seconds=report.left),
        90,
    )
    report.add(
        "the sandbox, 20 iterations",
        lambda: command("train.py", "trainer=gpu", "iterations=20", "logger=csv",
                        f"hydra.run.dir={root / 'sandbox'}", seconds=report.left),
        60,
    )  # fmt: skip
    report.add(
        "SmolLM2-135M, 20 iterations",
        lambda: command("train.py", *runs.smollm2(root, smollm2), seconds=report.left),
        60,
    )


if __name__ == "__main__":
    sys.exit(main())
