"""What more processes cost and send: 1, 2, 4 over gloo, beside the theory of their collectives.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_scale [--strategies ddp] [--processes 1 2]

Weak scaling gives each process as many prompts as one had, strong scaling shares them. Bytes are
those on the wire, counted by the kernel in a network that the run has for itself, so other work
does not matter to them; the seconds are rough where processes outnumber cores. Theory: a ring
all-reduce sends 2(n − 1)/n of the gradient from each process (DDP); FSDP's two gatherings and its
reduce-scatter 3(n − 1)/n for each forward and backward pass, and (n − 1)/n for each network that is
gathered to be read (the policy at a rollout; policy, reference and preference model for
log-probabilities and scores). The last table is an estimate for GPUs, by `scale_estimate`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from tests.benchmarks.bench_trl import CACHE
from tests.benchmarks.scale_estimate import table
from tests.benchmarks.setups import MEDIUM, Setup, World, make_world, overrides
from tests.benchmarks.wire import FILE, private_network

ROOT = Path(__file__).parents[2]
SETUP = Setup("scale", MEDIUM, 4, 8, 100, 32)
WARM, MEASURED = 2, 4


@dataclass(frozen=True)
class Point:
    """A run's iteration.

    Attributes:
        wall: seconds.
        cpu: seconds of the first process.
        sent: bytes, all processes together.
    """

    wall: float
    cpu: float
    sent: float


def measure(world: World, setup: Setup, strategy: str, processes: int) -> Point:
    """Run `setup` on so many processes. Return its median iteration."""
    words = [
        *overrides(setup, world),
        *(
            ("trainer=cpu",)
            if processes == 1
            else (f"trainer={strategy}", "trainer.accelerator=cpu")
        ),
        "trainer.precision=32-true",
        f"trainer.devices={processes}",
        "threads=1",
        f"iterations={WARM + MEASURED + 1}",
        "checkpoint_every=1000",
        "callbacks=none",
        "+callbacks.wire._target_=tests.benchmarks.wire.Wire",
    ]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "train.py", *words, f"hydra.run.dir={folder}"],
            cwd=ROOT, env=environment, preexec_fn=private_network, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode != 0:
            raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
        rows = json.loads((Path(folder) / FILE).read_text())
    steps = [[b - a for a, b in zip(*pair, strict=True)] for pair in pairwise(rows)]
    return Point(*(median(column) for column in zip(*steps[WARM:], strict=True)))


def theory(strategy: str, processes: int, weights: float, judge: float) -> float:
    """Return the bytes that all processes together send in an iteration of one step.

    Args:
        strategy: ``ddp`` or ``fsdp2``.
        processes: n.
        weights: bytes of the policy's, and of its gradient.
        judge: bytes of the preference model's.
    """
    share = (processes - 1) / processes
    if strategy == "ddp":
        return processes * 2 * share * weights
    update, readings = 3 * weights, 3 * weights + judge  # rollout, old and reference; scores
    return processes * share * (update + readings)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategies", nargs="+", default=["ddp", "fsdp2"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args(arguments)
    world = make_world(SETUP, options.cache)
    weights = (world.policy / "model.safetensors").stat().st_size
    judge = sum(file.stat().st_size for file in world.preference_model.rglob("*.safetensors"))
    print("| | processes | prompts | wall, s | CPU of the first, s | sent, MB | theory, MB |")
    print("|---|---|---|---|---|---|---|")
    most = max(options.processes)
    for strategy in options.strategies:
        for scaling in ("weak", "strong"):
            for n in options.processes:
                each = SETUP.prompts * (1 if scaling == "weak" else most // n)
                found = measure(world, replace(SETUP, prompts=each), strategy, n)
                expected = theory(strategy, n, weights, judge) / 1e6
                seconds = f"{found.wall:.2f} | {found.cpu:.2f}"
                megabytes = f"{found.sent / 1e6:.2f} | {expected:.2f}"
                point = f"{strategy}, {scaling} | {n} | {n * each}"
                print(f"| {point} | {seconds} | {megabytes} |", flush=True)
    print("\nAn estimate from published speeds, not a measurement:\n")
    print(table())


if __name__ == "__main__":
    main()
