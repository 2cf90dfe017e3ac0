"""Peak memory: against TRL at equal micro-batches, and as the vocabulary grows.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_memory [--against-trl] [--vocabulary]

Each figure is the largest resident size of a fresh process after three iterations, and the same
without what was resident before the first (the libraries and the loaded models).
"""

from __future__ import annotations

import argparse
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.bench_trl import CACHE
from tests.benchmarks.contest import ours, trl
from tests.benchmarks.setups import SETUPS, Shape, make_world
from tests.benchmarks.turns import Run

MICRO_BATCHES = {"A": (8, 32), "B": (8, 32), "C": (4, 16)}
VOCABULARIES = (8192, 32_768, 131_072)
MB = 1e6


def peak(run: Run) -> tuple[float, float]:
    """(all, added by training) in bytes."""
    with closing(run):
        run.turn(2)
        report = run.turn(1)
    return report["peak_bytes"], report["peak_bytes"] - report["start_bytes"]


def against_trl(cache: Path) -> None:
    print(f"{'setup':8}{'micro-batch':>12}{'TRL MB':>9}{'GPRL MB':>9}{'ratio':>7}   added:", end="")
    print(f"{'TRL':>7}{'GPRL':>7}{'ratio':>7}   target 0.5")
    for name, sizes in MICRO_BATCHES.items():
        setup = SETUPS[name]
        world = make_world(setup, cache)
        for size in sizes:
            theirs = peak(trl(setup, world, {}, size))
            mine = peak(ours(setup, world, {}, f"algorithm.micro_batch_size={size}"))
            print(
                f"{name:8}{size:12}{theirs[0] / MB:9.0f}{mine[0] / MB:9.0f}"
                f"{mine[0] / theirs[0]:7.2f}         {theirs[1] / MB:7.0f}{mine[1] / MB:7.0f}"
                f"{mine[1] / theirs[1]:7.2f}   {'met' if mine[0] <= theirs[0] / 2 else 'NOT met'}",
                flush=True,
            )


def by_vocabulary(cache: Path) -> None:
    """Beside the peak, what the weights hold: policy, reference, preference model, gradient, and
    two moments of AdamW; and one chunk of 1024 tokens' logits, in float32."""
    print(f"\n{'vocabulary':>10}{'peak MB':>9}{'weights':>9}{'one chunk':>11}{'the rest':>10}")
    for vocabulary in VOCABULARIES:
        shape = Shape(128, 2, vocabulary)
        setup = replace(SETUPS["A"], name=f"vocabulary-{vocabulary}", shape=shape)
        world = make_world(setup, cache)
        total, _ = peak(ours(setup, world, {}))
        weights = 6 * (world.policy / "model.safetensors").stat().st_size
        chunk = 4 * vocabulary * 1024
        print(
            f"{vocabulary:10}{total / MB:9.0f}{weights / MB:9.0f}{chunk / MB:11.0f}"
            f"{(total - weights - chunk) / MB:10.0f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against-trl", action="store_true")
    parser.add_argument("--vocabulary", action="store_true")
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    both = not (options.against_trl or options.vocabulary)
    if both or options.against_trl:
        against_trl(options.cache)
    if both or options.vocabulary:
        by_vocabulary(options.cache)


if __name__ == "__main__":
    main()
