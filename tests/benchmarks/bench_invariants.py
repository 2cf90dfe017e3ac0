"""What the invariants cost, as a share of a step of the default experiment (process CPU-seconds).

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_invariants [iterations]

The sandbox's policy, 8 prompts, 8 responses of up to 64 tokens, and a preference model of its size
with untrained heads. Each check is timed where it is called, in the one run: two runs, with and
without, would differ by more than what is measured.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import lightning as L
import torch
from transformers import AutoModel, AutoTokenizer

from gprl_lightning.callbacks.invariants import Invariants
from gprl_lightning.config import AlgorithmConfig, DataConfig, PolicyConfig, SchedulerConfig
from gprl_lightning.data.prompts import PromptLoader
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.policy import load_policy, reference_of
from gprl_lightning.modules import gprl
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.sandbox.prompts import sandbox_prompts
from tests.worlds import _encode

Seconds = dict[str, float]
LOGPROBS, START = "log-probabilities of the sampler", "at the start, once"


def timed(function: Callable, name: str, seconds: Seconds) -> Callable:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = process_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] += process_time() - start

    return wrapper


def first_apart(confirmed: Callable, seconds: Seconds) -> Callable:
    """The first rollout sends two rows through the policy; later ones ask the update before."""

    def wrapper(policy: Any, rollout: Any, parts: Any, differed: bool | None) -> Any:
        name = START if differed is None else LOGPROBS
        return timed(confirmed, name, seconds)(policy, rollout, parts, differed)

    return wrapper


class Begin(L.Callback):
    """The first callback: an iteration begins."""

    start = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.start = process_time()


class End(L.Callback):
    """The last callback: CPU-seconds of an iteration, its callbacks included."""

    def __init__(self, begin: Begin, seconds: Seconds):
        self.begin, self.seconds = begin, seconds

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds["step"] += process_time() - self.begin.start


def build() -> gprl.GPRLModule:
    folder = policy_folder("sandbox", "")
    policy = load_policy(PolicyConfig(), folder, 1.0)
    judge = from_backbone(
        AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), num_axes=3
    )
    return gprl.GPRLModule(
        policy=policy,
        reference=reference_of(policy),
        preference_model=judge,
        sampler=NativeSampler(),
        sampling=Sampling(8, 64),
        algorithm=AlgorithmConfig(),
        optimizer=partial(torch.optim.AdamW, lr=3e-4),
        scheduler=SchedulerConfig("constant", 0),
        iterations=1_000,
    )


def main(iterations: int) -> None:
    seconds: Seconds = defaultdict(float)
    module = build()
    gprl.confirm_old_logprobs = first_apart(gprl.confirm_old_logprobs, seconds)
    checks = Invariants(checksum_every=1)  # every 50th in a run: its share is divided below
    checks._require_unchanged = timed(checks._require_unchanged, "checksums", seconds)
    for hook in ("on_train_batch_start", "on_train_batch_end"):
        setattr(checks, hook, timed(getattr(checks, hook), "callback", seconds))
    for hook in ("setup", "on_train_start"):
        setattr(checks, hook, timed(getattr(checks, hook), START, seconds))

    begin = Begin()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[begin, checks, End(begin, seconds)],
            default_root_dir=Path(folder),
        )
        prompts = sandbox_prompts(DataConfig(path="sandbox"))[0]
        encode = partial(_encode, module.policy)
        trainer.fit(module, PromptLoader(prompts, encode, 8, iterations, 0))
    report(seconds, iterations)


def report(seconds: Seconds, iterations: int) -> None:
    step, rarely = seconds["step"] / iterations, Invariants().checksum_every
    checksums = seconds["checksums"] / iterations
    rows = {
        LOGPROBS: seconds[LOGPROBS] / iterations,
        "callback, without checksums": seconds["callback"] / iterations - checksums,
        f"checksums, every {rarely} iterations": checksums / rarely,
    }
    print(f"step: {step:.3f} CPU-seconds, mean of {iterations}")
    for name, value in {**rows, "together": sum(rows.values())}.items():
        print(f"{name:40s} {1e3 * value:8.2f} ms {value / step:8.2%}")
    print(f"{START:40s} {1e3 * seconds[START]:8.2f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
