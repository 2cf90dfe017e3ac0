"""Win rate on held-out prompts against the starting policy, while the run goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import torch

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.core.preference import pairwise_scores, total_scores
from gprl_lightning.errors import NotFinite
from gprl_lightning.evaluation.diversity import distinct_bigrams
from gprl_lightning.evaluation.judges import Judge
from gprl_lightning.evaluation.win_rate import length_controlled_win_rate, win_rate
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampler
from gprl_lightning.tracking import metrics

BASELINE_SEED, EVALUATION_SEED = 104_729, 1_299_709


@dataclass
class Answers:
    """One response per held-out prompt, with its length in the policy's tokens."""

    texts: list[str]
    lengths: list[int]
    rollouts: list[Rollout]


def _require_finite(values: Mapping[str, float]) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise NotFinite(
            f"evaluation.judge: expected finite figures; found {bad[0]}={values[bad[0]]} "
            f"({len(bad)} of {len(values)}). The policy or a judge gives NaN or Inf: lower "
            "optimizer.lr, or choose another judge."
        )


class HeldOutEvaluation(L.Callback):
    """Answers every held-out prompt once and lets the judge compare with the starting policy's
    answer.

    Runs before the first iteration, every `every` iterations and after the last. The same random
    numbers are used each time, so that successive points differ by the policy alone.

    Args:
        batches: the held-out prompts, encoded.
        judge: says which answer is better.
        every: iterations between evaluations.
        temperature: at which answers are sampled.
    """

    def __init__(
        self, batches: Sequence[PromptBatch], judge: Judge, every: int, temperature: float
    ):
        self.batches, self.judge, self.every, self.temperature = batches, judge, every, temperature
        self.baseline: Answers | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        reference = pl_module.reference.module
        # The sampler may hold weights of its own: the policy's, and no others.
        with trainer.precision_plugin.forward_context():  # as training computes
            self.baseline = self._answer(pl_module, NativeSampler(), reference, BASELINE_SEED)
        if trainer.global_step == 0:
            self._evaluate(trainer, pl_module, 0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: PromptBatch, batch_idx: int
    ) -> None:
        done = batch.iteration + 1
        if done % self.every == 0 or done == trainer.num_training_batches:
            self._evaluate(trainer, pl_module, done)

    def _evaluate(self, trainer: L.Trainer, pl_module: Any, iteration: int) -> None:
        # Every process computes the same figures: the logger writes those of the first.
        with trainer.precision_plugin.forward_context():  # Lightning does so for its own steps only
            values = self._figures(pl_module, iteration)
        _require_finite(values)
        values[metrics.ITERATION] = float(iteration)
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(values, step=iteration)

    @torch.no_grad()
    def _answer(self, pl_module: Any, sampler: Sampler, policy: Any, seed: int) -> Answers:
        sampling = replace(pl_module.sampling, group_size=1, temperature=self.temperature)
        seed = pl_module.seed + seed
        texts: list[str] = []
        lengths: list[int] = []
        rollouts: list[Rollout] = []
        for batch in self.batches:
            rollout = sampler.sample(policy, batch.to(pl_module.device), sampling, seed)
            texts += rollout.responses
            lengths += rollout.response_mask.sum(1).tolist()
            rollouts.append(rollout)
        return Answers(texts, lengths, rollouts)

    def _figures(self, pl_module: Any, iteration: int) -> dict[str, float]:
        sampler, policy, baseline = pl_module.sampler, pl_module.policy, self.baseline
        sampler.weights_changed(policy, iteration)
        answers = self._answer(pl_module, sampler, policy, EVALUATION_SEED)
        assert baseline is not None
        prompts = [m for batch in self.batches for m in batch.messages]
        outcomes = [
            self.judge.prefer(*row)
            for row in zip(prompts, answers.texts, baseline.texts, strict=True)
        ]
        rate = win_rate(outcomes)
        values = {
            metrics.EVAL_WIN_RATE: rate.mean,
            metrics.EVAL_WIN_RATE_LOW: rate.low,
            metrics.EVAL_WIN_RATE_HIGH: rate.high,
            metrics.EVAL_LENGTH_CONTROLLED: length_controlled_win_rate(
                outcomes, answers.lengths, baseline.lengths
            ),
            metrics.EVAL_KL: self._sequence_kl(pl_module, answers),
            metrics.EVAL_DISTINCT_BIGRAMS: distinct_bigrams(answers.texts),
            metrics.EVAL_RESPONSE_LENGTH: sum(answers.lengths) / len(answers.lengths),
            metrics.EVAL_PROXY_WIN_RATE: self._proxy_win_rate(pl_module, answers, baseline),
        }
        if len(outcomes) > 1:
            values[metrics.EVAL_WIN_RATE_EVEN] = win_rate(outcomes[::2]).mean
            values[metrics.EVAL_WIN_RATE_ODD] = win_rate(outcomes[1::2]).mean
        axes = [self.judge.axes(m, text) for m, text in zip(prompts, answers.texts, strict=True)]
        for name in axes[0]:
            mean = sum(row[name] for row in axes) / len(axes)
            values[metrics.per_axis(metrics.EVAL_GOLD, name)] = mean
        return values

    def _sequence_kl(self, pl_module: Any, answers: Answers) -> float:
        """KL to the reference of whole responses, in nats: ``E_y[Σ_t log π - log π_ref]``.

        The mean over the held-out answers, which are the policy's own samples: unbiased, and so
        now and then below 0 where policy and reference are alike. Both are taken at the
        temperature of the rollouts; with another ``evaluation.temperature`` the samples are not
        quite the policy's.
        """
        ratios = [pl_module.log_ratios(rollout) for rollout in answers.rollouts]
        return float(torch.cat(ratios).mean())

    @torch.no_grad()
    def _proxy_win_rate(self, pl_module: Any, answers: Answers, baseline: Answers) -> float:
        """The preference model's own verdict: how often its score of new against old is
        positive."""
        wins, start = 0.0, 0
        for batch in self.batches:
            pairs = [
                [answers.texts[i], baseline.texts[i]] for i in range(start, start + len(batch))
            ]
            start += len(batch)
            embeddings = pl_module.preference_source.embed(batch.messages, pairs, batch.columns)
            scores = pairwise_scores(embeddings.vectors)[:, 0, 1]
            total = total_scores(scores, embeddings.eigenvalues)
            wins += float(torch.heaviside(total, total.new_tensor(0.5)).sum())
        return wins / start
