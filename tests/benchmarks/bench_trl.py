"""A GPRL iteration against TRL's: the table of `docs/speed.md`.

    pip install -e '.[bench]'
    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_trl [--only A B] [--quick] [--table]

For each setup and each setting of malloc: TRL's best micro-batch size is looked for; then three
processes take turns: TRL with one iteration; ours with the four that share a batch of anchors, as
``train.py`` runs them (Lightning, metrics.csv, rollout tables, invariants, drift monitor, a
preference model of the policy's size); and the same with a reward in Python, as TRL's. Ratios are
of process CPU-seconds per iteration, pair by pair; start-up is left out. Each row is kept
in ``results.json`` when it is done: a call that was stopped goes on with the next, the same call
measures nothing twice of one commit (``--again`` does), and ``--table`` measures nothing.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.contest import (
    CHEAP,
    MALLOC,
    OURS,
    TRL,
    Result,
    contest,
    load,
    save,
    search_micro_batch,
    this_commit,
)
from tests.benchmarks.setups import SETUPS, Setup, make_world

CACHE = Path(".cache/benchmarks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SETUPS), default=list(SETUPS))
    parser.add_argument("--malloc", nargs="+", choices=list(MALLOC), default=list(MALLOC))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="also what is measured already")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, two pairs")
    parser.add_argument("--table", action="store_true", help="print what has been measured")
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    if options.quick:
        options.cache, options.pairs = options.cache / "quick", 2
    options.cache.mkdir(parents=True, exist_ok=True)
    file = options.cache / "results.json"
    results = load(file)
    for name in [] if options.table else options.only:
        setup = quick(SETUPS[name]) if options.quick else SETUPS[name]
        for malloc in options.malloc:
            if not options.again and is_measured(name, malloc, options.pairs, results):
                continue
            result = measure(setup, malloc, options.cache, options.pairs, results)
            results = [r for r in results if (r.setup, r.malloc) != (name, malloc)] + [result]
            save(results, file)
    print_table(results)


def quick(setup: Setup) -> Setup:
    """Small enough to see that both sides run."""
    return replace(
        setup, group_size=4, prompts=2, prompt_tokens=min(setup.prompt_tokens, 30), new_tokens=8
    )


def is_measured(name: str, malloc: str, pairs: int, results: list[Result]) -> bool:
    """Return True if this code has so many pairs of the row. What is not committed has none."""
    commit = this_commit()
    return not commit.endswith("-dirty") and any(
        (r.setup, r.malloc, r.commit) == (name, malloc, commit) and len(r.turns[TRL]) >= pairs
        for r in results
    )


def measure(setup: Setup, malloc: str, cache: Path, pairs: int, earlier: list[Result]) -> Result:
    """One row. What TRL's micro-batch sizes cost is not measured twice."""
    world = make_world(setup, cache)
    known = [r.micro_batches for r in earlier if (r.setup, r.malloc) == (setup.name, malloc)]
    costs = known[0] if known else search_micro_batch(setup, world, MALLOC[malloc])
    result = contest(setup, world, malloc, costs, pairs)
    print(f"{setup.name}, malloc {malloc}: {result.ratio(OURS):.2f} times cheaper", flush=True)
    return result


def print_table(results: list[Result]) -> None:
    print(f"\nCPU-s per iteration on {os.cpu_count()} cores; load: average at the end of a row;")
    print("ratios: medians of pairs, with the lowest and the highest pair.\n")
    print(
        f"{'setup':14}{'malloc':9}{'TRL (micro-batch)':>19}{'GPRL':>8}{'ratio':>7}"
        f"{'pairs':>14}{'target':>8}  met{'cheap reward':>15}{'lengths':>14}{'peak MB':>14}"
        f"{'load':>6}  commit"
    )
    for result in sorted(results, key=lambda r: (list(SETUPS).index(r.setup), r.malloc)):
        print(row(result))


def row(result: Result) -> str:
    target = SETUPS[result.setup].targets[result.malloc != "default"]
    best = min(result.micro_batches, key=lambda size: result.micro_batches[size])
    seconds = {side: result.middle(side, "cpu_seconds") for side in (TRL, OURS, CHEAP)}
    low, high = result.spread(OURS)
    lengths = [result.middle(side, "mean_length") for side in (TRL, OURS)]
    peaks = [result.middle(side, "peak_bytes") / 1e6 for side in (TRL, OURS)]
    met = "yes" if result.ratio(OURS) >= target else "NO"
    return (
        f"{result.setup:14}{result.malloc:9}{seconds[TRL]:14.2f} ({best:2}){seconds[OURS]:8.2f}"
        f"{result.ratio(OURS):7.2f}{low:8.2f}–{high:.2f}{target:8.1f}{met:>5}"
        f"{result.ratio(CHEAP):15.2f}{lengths[0]:7.1f} /{lengths[1]:5.1f}"
        f"{peaks[0]:7.0f} /{peaks[1]:5.0f}"
        f"{result.load:6.1f}  {result.commit}"
    )


if __name__ == "__main__":
    main()
