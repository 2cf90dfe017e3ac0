"""Ours against TRL's ``GRPOTrainer``: both sides started alike, and made to take turns."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from gprl_lightning.modules.anchors import AHEAD
from gprl_lightning.tracking.provenance import provenance
from tests.benchmarks.setups import Setup, World, overrides
from tests.benchmarks.turns import Run

Report = dict[str, float]
OURS, CHEAP, TRL = "GPRL", "GPRL, cheap reward", "TRL"
# Iterations of a turn: ours samples anchors for several at once, and each turn pays for its own.
PER_TURN = {OURS: AHEAD, CHEAP: AHEAD}
# glibc gives large blocks back to the system at once, and takes them again: page faults. Above
# these thresholds it keeps them.
RAISED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
LONG = 10  # CPU-seconds
MALLOC: dict[str, dict[str, str]] = {"default": {}, "raised": RAISED}
TAKE_TURNS = "+callbacks.turns._target_=tests.benchmarks.turns.TakeTurns"


def ours(
    setup: Setup, world: World, environment: Mapping[str, str], *more: str, cheap: bool = False
) -> Run:
    """``train.py`` with its callbacks, logging and preference model, or a reward in Python."""
    reward = {"BENCHMARK_REWARD": "cheap"} if cheap else {}
    arguments = overrides(setup, world, TAKE_TURNS, *more)
    log = world.runs / ("gprl_cheap.log" if cheap else "gprl.log")
    return Run("tests.benchmarks.side_gprl", arguments, log, {**environment, **reward})


def trl(
    setup: Setup,
    world: World,
    environment: Mapping[str, str],
    micro_batch_size: int,
    lora: bool = False,
) -> Run:
    """``GRPOTrainer`` on the same."""
    options = {
        "policy": str(world.policy),
        "prompts": str(world.prompts),
        "prompts_per_step": setup.prompts,
        "group_size": setup.group_size,
        "new_tokens": setup.new_tokens,
        "updates": setup.updates,
        "micro_batch_size": micro_batch_size,
        "dtype": str(setup.dtype).removeprefix("torch."),
        "lora": lora,
    }
    log = world.runs / f"trl_{micro_batch_size}.log"
    return Run("tests.benchmarks.side_trl", [json.dumps(options)], log, environment)


def search_micro_batches(
    setup: Setup, world: World, mallocs: Sequence[str]
) -> dict[str, dict[int, float]]:
    """TRL's CPU-seconds by micro-batch size, at each setting of malloc.

    At the first from all rollouts at once downwards by halves, until two sizes running are dearer
    than the best by more than noise: one may be dear between two that are not. At the others the
    best of the first, and what is twice and half as large.
    """
    found: dict[str, dict[int, float]] = {}
    first, *others = mallocs
    seconds, size, dearer = found.setdefault(first, {}), setup.rollouts, 0
    while size >= 1 and dearer < 2:
        seconds[size] = _cost(setup, world, first, size)
        dearer = dearer + 1 if seconds[size] > 1.1 * min(seconds.values()) else 0
        size //= 2
    best = min(seconds, key=lambda size: seconds[size])
    for malloc in others:
        sizes = [n for n in (2 * best, best, best // 2) if 1 <= n <= setup.rollouts]
        found[malloc] = {size: _cost(setup, world, malloc, size) for size in sizes}
    return found


def _cost(setup: Setup, world: World, malloc: str, size: int) -> float:
    """An iteration's, after one to warm up: the lower of two, where they are not long."""
    with closing(trl(setup, world, MALLOC[malloc], size)) as run:
        run.turn(1)
        seconds = run.turn(1)["cpu_seconds"]
        return seconds if seconds > LONG else min(seconds, run.turn(1)["cpu_seconds"])


@dataclass(frozen=True)
class Result:
    """One row of the table, at one setting of malloc.

    Attributes:
        micro_batches: TRL's CPU-seconds by micro-batch size; its best one met ours.
        turns: of each side, one report per pair.
        commit: of the code, as `git describe --dirty` says it.
        load: the machine's load average at the end.
    """

    setup: str
    malloc: str
    micro_batches: dict[int, float]
    turns: dict[str, list[Report]]
    commit: str = ""
    load: float = 0.0

    def ratios(self) -> list[float]:
        """How many times cheaper than TRL, pair by pair."""
        pairs = zip(self.turns[TRL], self.turns[OURS], strict=True)
        return [t["cpu_seconds"] / o["cpu_seconds"] for t, o in pairs]

    def cheap_ratio(self) -> float:
        """How many times cheaper with a reward in Python, which has a single turn."""
        return self.middle(TRL, "cpu_seconds") / self.middle(CHEAP, "cpu_seconds")

    def middle(self, side: str, what: str) -> float:
        return median(report[what] for report in self.turns[side])


def contest(
    setup: Setup, world: World, micro_batches: Mapping[str, dict[int, float]], pairs: int
) -> list[Result]:
    """Processes that take turns, after two iterations that warm up: TRL at each setting of malloc,
    and ours, which makes its own (`trainer=cpu`), so that one is enough. With a reward in Python it
    has one turn, after the others.
    """
    best = {m: min(costs, key=lambda size: costs[size]) for m, costs in micro_batches.items()}
    with ExitStack() as stack:
        runs = {m: trl(setup, world, MALLOC[m], size) for m, size in best.items()}
        runs |= {OURS: ours(setup, world, {}), CHEAP: ours(setup, world, {}, cheap=True)}
        for run in runs.values():
            stack.enter_context(closing(run))
        for run in runs.values():
            run.turn(2)
        turns: dict[str, list[Report]] = {side: [] for side in runs}
        for _ in range(pairs):
            for side in (*best, OURS):
                turns[side].append(runs[side].turn(PER_TURN.get(side, 1)))
        turns[CHEAP].append(runs[CHEAP].turn(PER_TURN[CHEAP]))
    now = os.getloadavg()[0]
    sides = {m: {TRL: turns[m], OURS: turns[OURS], CHEAP: turns[CHEAP]} for m in best}
    return [Result(setup.name, m, micro_batches[m], sides[m], this_commit(), now) for m in best]


def this_commit() -> str:
    """Return the commit of the code, nine digits of it, and whether files are changed."""
    commit, _, dirty = str(provenance()["git_commit"]).partition("-")
    return commit[:9] + ("-dirty" if dirty else "")


def save(results: list[Result], file: Path) -> None:
    file.write_text(json.dumps([vars(r) for r in results], indent=1) + "\n")


def load(file: Path) -> list[Result]:
    """Results of an earlier call, so that rows can be measured one at a time."""
    if not file.exists():
        return []
    found = [Result(**row) for row in json.loads(file.read_text())]
    return [
        replace(r, micro_batches={int(k): v for k, v in r.micro_batches.items()}) for r in found
    ]
