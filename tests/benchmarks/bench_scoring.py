"""What scoring costs: group scores in closed form and by pairs, and a GPM within a GPRL step.

    python -m tests.benchmarks.bench_scoring

Prints ratios of process CPU-seconds on one thread, which other load on the machine hardly moves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import lightning as L
import torch

from gprl_lightning.config import AlgorithmConfig, PolicyConfig, SchedulerConfig
from gprl_lightning.core.batch import Prompt
from gprl_lightning.core.preference import group_scores, pairwise_scores
from gprl_lightning.data.prompts import PromptLoader
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.policy import load_policy, reference_of
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.modules.gprl import GPRLModule
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.sandbox.requests import split_requests

GROUPS, SIZE, AXES = 512, 16, 3


def cpu_seconds(function: Callable[[], Any], repeats: int = 20) -> float:
    """The least of several measurements: what the work costs without what disturbs it."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def closed_form_against_pairwise() -> None:
    vectors = torch.randn(GROUPS, SIZE, AXES, 2)

    def by_pairs():
        return pairwise_scores(vectors).sum(2) / (SIZE - 1)

    torch.testing.assert_close(group_scores(vectors), by_pairs(), rtol=1e-4, atol=1e-4)
    closed, pairs = cpu_seconds(lambda: group_scores(vectors)), cpu_seconds(by_pairs)
    print(f"group scores, {GROUPS} groups of {SIZE}, {AXES} axes:")
    print(f"  closed form {1e3 * closed:.2f} ms, by pairs {1e3 * pairs:.2f} ms")
    print(f"  ratio {pairs / closed:.0f}")
    print(f"  forwards for one group: {SIZE}; for all its pairs: {SIZE * (SIZE - 1)}")


class Spent(L.Callback):
    """CPU-seconds of whole steps, and of the preference model within them."""

    def __init__(self) -> None:
        self.step = self.model = self.started = 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        self.started = time.process_time()

    def on_train_batch_end(self, *args: Any) -> None:
        self.step += time.process_time() - self.started

    def timed(self, embed: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            start = time.process_time()
            try:
                return embed(*args)
            finally:
                self.model += time.process_time() - start

        return run


def share_of_a_step(iterations: int = 4) -> None:
    """The sandbox's policy, 8 prompts of 8 responses, judged by a GPM on the same network."""
    policy, judge = (
        load_policy(PolicyConfig(), policy_folder("sandbox", ""), 1.0) for _ in range(2)
    )
    gpm = from_backbone(judge.model.base_model, judge.tokenizer, num_axes=AXES).eval()
    module = GPRLModule(
        policy=policy,
        reference=reference_of(policy),
        preference_model=gpm,
        sampler=NativeSampler(),
        sampling=Sampling(8, 64),
        algorithm=AlgorithmConfig(),
        optimizer=partial(torch.optim.AdamW, lr=1e-5),
        scheduler=SchedulerConfig(),
        iterations=iterations,
        anchored=False,
    )
    texts = [request.text for request in split_requests()[0]]
    prompts = [Prompt(i, ({"role": "user", "content": t},)) for i, t in enumerate(texts)]

    def encode(iteration: int, uids: Any, messages: Any):
        return policy.encode_prompts(iteration, uids, messages, 64)

    spent = Spent()
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[spent],
    )
    with patch.object(PreferenceModel, "embed", spent.timed(PreferenceModel.embed)):
        trainer.fit(module, PromptLoader(prompts, encode, 8, iterations, seed=0))
    print(f"a GPRL step on the sandbox, 8 x 8 responses: {spent.step / iterations:.2f} CPU-s")
    print(f"  of which the preference model: {100 * spent.model / spent.step:.0f} %")


if __name__ == "__main__":
    torch.set_num_threads(1)
    closed_form_against_pairwise()
    share_of_a_step()
