"""A GPRL iteration against TRL's: the table of `docs/speed.md`.

    pip install -e '.[bench]'
    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_trl [--only A B] [--quick] [--table]

For each setup and each setting of malloc TRL's best micro-batch size is looked for; then processes
take turns: TRL with one iteration, at either setting; ours with the eight that share a batch of
anchors, as ``train.py`` runs them (Lightning, metrics.csv, rollout tables, invariants, drift
monitor, a preference model of the policy's size); and in the end the same with a reward in Python,
as TRL's. Ratios are of process CPU-seconds per iteration, pair by pair; start-up is left out. A
setup's rows are kept in ``results.json`` when they are done: a call that was stopped goes on with
the next, of one commit nothing is measured twice, ``--resume`` keeps rows of other commits, too,
and ``--table`` measures nothing.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from statistics import median

from tests.benchmarks.contest import (
    CHEAP,
    MALLOC,
    OURS,
    TRL,
    Result,
    contest,
    load,
    save,
    search_micro_batches,
    this_commit,
)
from tests.benchmarks.setups import SETUPS, Setup, make_world

CACHE = Path(".cache/benchmarks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SETUPS), default=list(SETUPS))
    parser.add_argument("--malloc", nargs="+", choices=list(MALLOC), default=list(MALLOC))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--resume", action="store_true", help="keep rows of other commits, too")
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
        commit = this_commit()  # what is not committed is nobody's
        same = [r for r in results if r.commit == commit and "-dirty" not in commit]
        done = results if options.resume else same
        if is_measured(name, options.malloc, options.pairs, done):
            continue
        new = measure(setup, options.malloc, options.cache, options.pairs, results)
        rows = [(r.setup, r.malloc) for r in new]
        results = [r for r in results if (r.setup, r.malloc) not in rows] + new
        save(results, file)
    print_table(results)


def quick(setup: Setup) -> Setup:
    """Small enough to see that both sides run."""
    return replace(
        setup, group_size=4, prompts=2, prompt_tokens=min(setup.prompt_tokens, 30), new_tokens=8
    )


def is_measured(name: str, mallocs: list[str], pairs: int, results: list[Result]) -> bool:
    """Return True if these results have so many pairs of all rows of a setup."""
    rows = {r.malloc for r in results if r.setup == name and len(r.turns[TRL]) >= pairs}
    return rows >= set(mallocs)


def measure(
    setup: Setup, mallocs: list[str], cache: Path, pairs: int, earlier: list[Result]
) -> list[Result]:
    """The rows of a setup. What TRL's micro-batch sizes cost is not measured twice."""
    world = make_world(setup, cache)
    known = {r.malloc: r.micro_batches for r in earlier if r.setup == setup.name}
    costs = {m: known[m] for m in mallocs if m in known}
    if len(costs) < len(mallocs):
        costs = search_micro_batches(setup, world, mallocs)
    found = contest(setup, world, costs, pairs)
    for result in found:
        ratio = median(result.ratios())
        print(f"{setup.name}, malloc {result.malloc}: {ratio:.2f} times cheaper", flush=True)
    return found


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
    ratios = result.ratios()
    lengths = [result.middle(side, "mean_length") for side in (TRL, OURS)]
    peaks = [result.middle(side, "peak_bytes") / 1e6 for side in (TRL, OURS)]
    met = "yes" if median(ratios) >= target else "NO"
    return (
        f"{result.setup:14}{result.malloc:9}{seconds[TRL]:14.2f} ({best:2}){seconds[OURS]:8.2f}"
        f"{median(ratios):7.2f}{min(ratios):8.2f}–{max(ratios):.2f}{target:8.1f}{met:>5}"
        f"{result.cheap_ratio():15.2f}{lengths[0]:7.1f} /{lengths[1]:5.1f}"
        f"{peaks[0]:7.0f} /{peaks[1]:5.0f}"
        f"{result.load:6.1f}  {result.commit}"
    )


if __name__ == "__main__":
    main()
