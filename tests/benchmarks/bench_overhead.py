"""What surrounds the kernels: a whole iteration of ``train.py`` against a bare loop of the same.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_overhead [--pairs 10] [--setup A] [overrides]

In one process, with the default loggers and callbacks: before or after each iteration of
Lightning's, a twin of the module (a policy of its own, the same sampler, models and prompts) does
it as a bare loop: sample, score, forwards, backwards, optimiser; no trainer, callback, statistics,
check or log. Both see the same random numbers and make the same updates, which is checked at the
end: the work is the same. Process CPU-seconds; what W&B's own process spends is told beside.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import lightning as L
import psutil
import torch
from torch import Tensor

from gprl_lightning.core.batch import PromptBatch
from gprl_lightning.core.drift import DriftControl
from gprl_lightning.modules import gprl
from gprl_lightning.modules.gprl import GPRLModule
from gprl_lightning.modules.partition import minibatches
from gprl_lightning.modules.statistics import UpdateStatistics
from tests.benchmarks.bench_trl import CACHE
from tests.benchmarks.setups import SETUPS, make_world, overrides
from tests.benchmarks.turns import ROOT

TARGET = 0.05
WARM_UP = 2
MARK = "OVERHEAD "


class NoStatistics:
    """In the place of `UpdateStatistics`: nothing is measured, every step is taken."""

    own = False  # in float32 the update starts from the sampler's own log-probabilities

    def add(self, *_: Any) -> None:
        pass

    def close(self, rows: Tensor, norm: Tensor) -> bool:
        return True


class BareLoop(GPRLModule):
    """The kernels of an iteration in a loop of their own, without a trainer."""

    def __init__(self, twin: GPRLModule):
        super().__init__(
            policy=copy.deepcopy(twin.policy),
            reference=twin.reference,
            preference_source=twin.preference_source,
            advantage_rule=twin.advantage_rule,
            policy_loss=twin.policy_loss,
            sampler=twin.sampler,
            sampling=twin.sampling,
            algorithm=twin.algorithm,
            optimizer=twin.make_optimizer,
            scheduler=twin.scheduler,
            iterations=twin.iterations,
            seed=twin.seed,
            anchored=twin.anchors is not None,
        )
        if self.anchors and twin.anchors:
            self.anchors.upcoming = twin.anchors.upcoming
        made = self.configure_optimizers()
        self.both = made["optimizer"], made["lr_scheduler"]

    def iteration(self, prompts: PromptBatch) -> None:
        rollout = self.sampler.sample(self.policy, prompts, self.sampling, self.seed)
        scored = self._score(rollout)
        statistics: Any = NoStatistics()
        for rows in minibatches(rollout, self.algorithm, self.seed):
            self._update(scored, rows, statistics)

    def optimizer_and_schedule(self) -> Any:
        return self.both

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()


class Pairs(L.Callback):
    """Runs the bare loop before or, every other time, after each iteration; reports at the end."""

    def __init__(self) -> None:
        self.bare: list[float] = []
        self.whole: list[float] = []
        self.others: list[float] = []
        self.parts: dict[str, float] = defaultdict(float)
        self.counting = False
        self.began = 0.0
        self.pending: tuple[PromptBatch, DriftControl] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.twin = BareLoop(pl_module).train()
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if callback is not self:
                for hook in ("on_train_batch_start", "on_train_batch_end"):
                    self._time(callback, hook, type(callback).__name__)
        for logger in trainer.loggers:
            self._time(logger, "log_metrics", type(logger).__name__)
        self._time(gprl, "confirm_old_logprobs", "log-probabilities of the sampler")
        for name in ("add", "close", "report"):
            self._time(UpdateStatistics, name, "statistics of the update")
        self._time(pl_module, "_finished", "statistics of the scores, and Lightning's log")

    def _time(self, owner: Any, name: str, part: str) -> None:
        """Add up, from the end of the warm-up on, what calls of `owner.name` cost."""
        function = getattr(owner, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            start = process_time()
            try:
                return function(*args, **kwargs)
            finally:
                if self.counting:
                    self.parts[part] += process_time() - start

        setattr(owner, name, run)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx:
            self.whole.append(process_time() - self.began)
        self.others.append(_children_seconds())
        self._bare_iteration()
        self.pending = (batch, pl_module.control)
        if batch_idx % 2:
            self._bare_iteration()
        self.counting = WARM_UP <= batch_idx < trainer.num_training_batches - 1
        self.began = process_time()

    def _bare_iteration(self) -> None:
        """Do what is to be done: the iteration before, or the one that begins."""
        if self.pending is not None:
            prompts, self.twin.control = self.pending
            start = process_time()
            self.twin.iteration(prompts)
            self.bare.append(process_time() - start)
            self.pending = None

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._bare_iteration()
        pairs = zip(pl_module.policy.parameters(), self.twin.policy.parameters(), strict=True)
        gap = max(float((a - b).detach().abs().max()) for a, b in pairs)
        found = {
            "bare": self.bare[:-1],
            "whole": self.whole,
            "others": self.others,
            "parts": {k: v / (len(self.whole) - WARM_UP) for k, v in self.parts.items()},
            "gap": gap,
        }
        print(f"\n{MARK}{json.dumps(found)}", flush=True)


def _children_seconds() -> float:
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(t.user + t.system for t in times)


def measure(arguments: list[str], pairs: int, folder: Path) -> None:
    command = [
        sys.executable, "-m", "tests.benchmarks.side_gprl", *arguments,
        f"iterations={WARM_UP + pairs + 1}",  # the last one's end is not seen
        "+callbacks.pairs._target_=tests.benchmarks.bench_overhead.Pairs",
        f"hydra.run.dir={folder}",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        raise RuntimeError(done.stderr[-3000:])
    found = json.loads(lines[0].removeprefix(MARK))
    bare, whole = found["bare"][WARM_UP:], found["whole"][WARM_UP:]
    extra = [w - b for w, b in zip(whole, bare, strict=True)]
    overhead = median(e / b for e, b in zip(extra, bare, strict=True))
    others = (found["others"][-1] - found["others"][WARM_UP]) / len(bare)
    print(
        f"bare loop {1e3 * median(bare):.0f} ms, whole iteration {1e3 * median(whole):.0f} ms: "
        f"{1e3 * median(extra):+.0f} ms, {overhead:+.1%} (target {TARGET:.0%}: "
        f"{'met' if overhead <= TARGET else 'NOT met'}; all pairs together "
        f"{sum(extra) / sum(bare):+.1%}).\n"
        f"W&B's own process: {1e3 * others:.0f} ms per iteration beside it. "
        f"Largest difference of the weights after {len(bare) + WARM_UP + 1} iterations: "
        f"{found['gap']:.1g}."
    )
    named = dict(sorted(found["parts"].items(), key=lambda part: -part[1]))
    named["Lightning's loop, the loader, and the rest"] = sum(extra) / len(extra) - sum(
        named.values()
    )
    for name, seconds in named.items():
        print(f"  {name:50}{1e3 * seconds:8.1f} ms {seconds / median(bare):7.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--setup", choices=list(SETUPS), default="A")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setup = SETUPS[options.setup]
    world = make_world(setup, options.cache)
    arguments = [*overrides(setup, world), "logger=wandb", "checkpoint_every=1000"]
    folder = world.runs / f"overhead_{os.getpid()}"
    print(f"{setup.name}: {setup.prompts} prompts, G = {setup.group_size}")
    measure([*arguments, *options.overrides], options.pairs, folder)


if __name__ == "__main__":
    main()
