"""A short run of ``train.py``'s task inside this process: what its iterations cost, and on what."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, ClassVar

import lightning as L
import torch
from torch.profiler import ProfilerActivity, profile

from gprl_lightning.config.validation import validate
from gprl_lightning.modules.partition import minibatches
from gprl_lightning.modules.statistics import UpdateStatistics
from gprl_lightning.tasks.train_policy import train_policy
from tests.benchmarks.setups import Setup, World, overrides
from tests.composing import composed

CPU, WALL = "cpu_seconds", "wall_seconds"


class Record(L.Callback):
    """From the start of each iteration to the start of the next: seconds, and what was logged."""

    rows: ClassVar[list[dict[str, float]]] = []  # of the last run: Hydra made the callback

    def __init__(self) -> None:
        self.rows.clear()
        self.began = (0.0, 0.0)
        self.logged: dict[str, float] = {}

    def on_train_batch_start(self, *_: Any) -> None:
        now = process_time(), perf_counter()
        if self.logged:
            cpu, wall = (b - a for a, b in zip(self.began, now, strict=True))
            self.rows.append({CPU: cpu, WALL: wall, **self.logged})
        self.began = now

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        times = ", ".join(f"{n} {v:.2f}" for n, v in self.logged.items() if n.startswith("time/"))
        print(f"iteration {len(self.rows) + 1}: {times}", flush=True)


class Profile(L.Callback):
    """Once the run is over: the longest kernels of a short rollout, of the scoring of a whole one
    and of its update, and how much of the time there was one."""

    found: ClassVar[dict[str, dict[str, Any]]] = {}
    NEW_TOKENS: ClassVar[int] = 32  # of the short rollout: a profile holds every kernel

    def __init__(self) -> None:
        self.found.clear()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.prompts = batch

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        module, prompts = pl_module, self.prompts
        short = replace(module.sampling, max_new_tokens=self.NEW_TOKENS)

        def sample() -> None:
            module.sampler.sample(module.policy, prompts, short, module.seed)

        sample()  # captures its steps
        self._profile("rollout", sample)
        rollout, check = module._sample(prompts)
        scored: list[Any] = []
        self._profile("score", lambda: scored.append(module._score(rollout)))
        statistics = UpdateStatistics(own=check.by_update)
        (rows,) = minibatches(rollout, module.algorithm, module.seed, module._kept(scored[0]))
        self._profile("update", lambda: module._update(scored[0], rows, statistics))

    def _profile(self, phase: str, work: Callable[[], object]) -> None:
        self.found[phase] = kernels(work)
        print(phase, json.dumps(self.found[phase]), flush=True)


WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMemcpyAsync")
LAUNCHES = ("cudaLaunchKernel", "cudaGraphLaunch", "cuLaunchKernel")


def kernels(work: Callable[[], object], top: int = 14) -> dict[str, Any]:
    """Run ``work``. Return its seconds, those of its kernels, the device's memory before and at
    most, and the ``top`` longest kernels by name, in milliseconds and how many; on a CPU, of
    operators."""
    on_gpu = torch.cuda.is_available()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    wait = torch.cuda.synchronize if on_gpu else int
    wait()
    with profile(activities=[activity]) as found:
        start = perf_counter()
        work()
        wait()
        seconds = perf_counter() - start
    events: Any = found.key_averages()
    time = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    ran = [event for event in events if getattr(event, time)]
    longest = sorted(ran, key=lambda event: getattr(event, time), reverse=True)
    named = {e.key[:90]: [round(getattr(e, time) / 1e3, 2), e.count] for e in longest[:top]}
    return {
        "seconds": seconds,
        "kernel seconds": sum(getattr(event, time) for event in ran) / 1e6,
        "kernels": sum(event.count for event in ran),
        "launches": sum(e.count for e in events if e.key.startswith(LAUNCHES)),
        "waits": sum(e.count for e in events if e.key.startswith(WAITS)),
        "GB before": before / 1e9,
        "GB at most": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0,
        "top": named,
    }


class Measured(Exception):
    """Ends a run before it writes a policy of gigabytes."""


class EndHere(L.Callback):
    def on_train_end(self, *_: Any) -> None:
        raise Measured


def recorded(setup: Setup, world: World, iterations: int, *more: str) -> list[dict[str, float]]:
    """Rows of `iterations` iterations, after one that warms up."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = composed(
            *overrides(setup, world),
            f"iterations={iterations + 2}",  # the last one's end is not seen
            "checkpoint_every=1000",
            "callbacks=none",
            "+callbacks.record._target_=tests.benchmarks.recording.Record",
            *more,
            "+callbacks.end._target_=tests.benchmarks.recording.EndHere",
        )
        with suppress(Measured):
            train_policy(validate(cfg), cfg, Path(folder))
    return Record.rows[1:]
