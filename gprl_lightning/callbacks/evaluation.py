"""Win rate on held-out prompts against the starting policy, while the run goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gprl_lightning.core.batch import Prompt, PromptBatch, Rollout
from gprl_lightning.core.iteration import ITERATION
from gprl_lightning.errors import NotFinite
from gprl_lightning.evaluation.diversity import distinct_bigrams
from gprl_lightning.evaluation.endpoint_judge import EndpointJudge
from gprl_lightning.evaluation.judge import Judge, SourceJudge
from gprl_lightning.evaluation.judge_metrics import by_task, cut_share, undecided
from gprl_lightning.evaluation.win_rate import length_controlled_win_rate, win_rate
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.preference_model import texts_read
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.answer_log import Evaluated

BASELINE_SEED, EVALUATION_SEED = 104_729, 1_299_709

Sample = Callable[[Policy, PromptBatch, int], Rollout]  # one response per prompt, by seed
Keep = Callable[[int, Evaluated], None]  # what is done with an evaluation's answers


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Contestants:
    """The policy that is trained, the policy as it started, and how each answers.

    Attributes:
        policy: as it is now.
        start: as it started; kept apart from any reference, which may move or be missing.
        sample: draws the policy's answers.
        sample_start: draws those of `start`, from its own weights.
        log_ratios: ``log π - log π_start`` of whole responses, in nats.
        weights_changed: tells the policy's sampler how many iterations old its weights are.
    """

    policy: Policy
    start: Policy
    sample: Sample
    sample_start: Sample
    log_ratios: Callable[[Rollout], Float[Tensor, " rollouts"]]
    weights_changed: Callable[[int], None]


class HeldOutEvaluation(L.Callback):
    """Answers every held-out prompt once and lets judges compare with the starting policy's answer.

    Runs before the first iteration, every `every` iterations and after the last. The same random
    numbers are used each time, so that successive points differ by the policy alone.

    Args:
        prompts: the held-out prompts.
        batches: the same prompts, encoded.
        judges: by name; the first one is quoted as ``eval/win_rate``.
        contestants: who answers.
        every: iterations between evaluations.
        keep: gets the answers of each evaluation, and what was found out about them.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        batches: Sequence[PromptBatch],
        judges: Mapping[str, Judge],
        contestants: Contestants,
        every: int,
        keep: Keep | None = None,
    ):
        self.keep = keep
        self.prompts, self.batches, self.judges = prompts, batches, judges
        self.contestants, self.every = contestants, every
        self.baseline: Answers | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        start = self.contestants.start.to(pl_module.device)
        for judge in self.judges.values():
            if isinstance(judge, SourceJudge):
                judge.to(pl_module.device)
        with trainer.precision_plugin.forward_context():  # as training computes
            self.baseline = self._answers(self.contestants.sample_start, start, BASELINE_SEED)
        if trainer.global_step == 0:
            self._evaluate(trainer, 0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = outputs[ITERATION].index + 1
        if done % self.every == 0 or done == trainer.num_training_batches:
            self._evaluate(trainer, done)

    def answers(self) -> Answers:
        """Sample the policy's answers of now."""
        return self._answers(self.contestants.sample, self.contestants.policy, EVALUATION_SEED)

    def _evaluate(self, trainer: L.Trainer, iteration: int) -> None:
        # Every process computes the same figures: the logger writes those of the first.
        with trainer.precision_plugin.forward_context():  # Lightning does so for its own steps only
            values = self._figures(trainer, iteration)
        _require_finite(values)
        values[metrics.ITERATION] = float(iteration)
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(values, step=iteration)

    @torch.no_grad()
    def _answers(self, sample: Sample, policy: Policy, seed: int) -> Answers:
        device = next(self.contestants.policy.parameters()).device
        rollouts = [sample(policy, batch.to(device), seed) for batch in self.batches]
        return Answers(
            texts=[text for rollout in rollouts for text in rollout.responses],
            lengths=[n for rollout in rollouts for n in rollout.response_mask.sum(1).tolist()],
            rollouts=rollouts,
        )

    def _figures(self, trainer: L.Trainer, iteration: int) -> dict[str, float]:
        self.contestants.weights_changed(iteration)
        answers, baseline = self.answers(), self.baseline
        assert baseline is not None
        ratios = [self.contestants.log_ratios(rollout) for rollout in answers.rollouts]
        verdicts, qualities = {}, {}
        values = {
            metrics.EVAL_KL: sequence_kl(ratios),
            metrics.EVAL_DISTINCT_BIGRAMS: distinct_bigrams(answers.texts),
            metrics.EVAL_RESPONSE_LENGTH: sum(answers.lengths) / len(answers.lengths),
        }
        for place, (name, judge) in enumerate(self.judges.items()):
            before = _texts(judge)
            verdicts[name], chances = self._verdicts(trainer, judge, answers, baseline)
            values |= cut_share(name, before, _texts(judge))
            values |= verdict_metrics(name, verdicts[name], answers, baseline, quoted=place == 0)
            values |= by_task(self.prompts, verdicts[name]) if place == 0 else {}
            values |= undecided(name, chances)
            qualities[name] = judge.axes(self.prompts, answers.texts)
            for axis, row in qualities[name].items():
                values[metrics.judge_axis(name, axis)] = sum(row) / len(row)
        if self.keep is not None:
            logprobs = torch.cat([r.old_logprobs.double().sum(1) for r in answers.rollouts])
            self.keep(
                iteration,
                Evaluated(
                    prompts=self.prompts,
                    texts=answers.texts,
                    lengths=answers.lengths,
                    logprobs=logprobs.tolist(),
                    start_logprobs=(logprobs - torch.cat(ratios).to(logprobs)).tolist(),
                    others=baseline.texts,
                    other_lengths=baseline.lengths,
                    verdicts=verdicts,
                    qualities=qualities,
                ),
            )
        return values

    def _verdicts(
        self, trainer: L.Trainer, judge: Judge, answers: Answers, baseline: Answers
    ) -> tuple[Sequence[float | None], Sequence[float | None]]:
        """Return a judge's verdicts, and how likely it holds each answer to be the better one."""
        compared = self.prompts, answers.texts, baseline.texts
        if isinstance(judge, SourceJudge):
            return judge.weighed(*compared)
        if isinstance(judge, EndpointJudge):  # paid for once, and one word for all processes
            first = judge.prefer(*compared) if trainer.is_global_zero else []
            verdicts = trainer.strategy.broadcast(first)
        else:
            verdicts = judge.prefer(*compared)
        return verdicts, verdicts


def sequence_kl(ratios: Sequence[Float[Tensor, " rollouts"]]) -> float:
    """Return the KL to the starting policy of whole responses, in nats: ``E_y[Σ_t log π - log
    π_start]``.

    The mean over the held-out answers, which are the policy's own samples: unbiased, and so
    now and then below 0 where the two are alike. Both are taken at the temperature of the
    rollouts; with another ``evaluation.temperature`` the samples are not quite the policy's.
    """
    return float(torch.cat(list(ratios)).mean())


def _texts(judge: Judge) -> tuple[int, int]:
    source = judge.source if isinstance(judge, SourceJudge) else None
    return texts_read([source] if isinstance(source, nn.Module) else [])


def verdict_metrics(
    name: str,
    verdicts: Sequence[float | None],
    answers: Answers,
    baseline: Answers,
    quoted: bool,
) -> dict[str, float]:
    """Return a judge's win rate over the comparisons that it decided, ``eval/win_rate/<name>``.

    The quoted judge's is ``eval/win_rate`` as well, with its interval and the rate at equal length.
    Comparisons without a verdict are counted and printed, and a judge that decided none has no
    rate.
    """
    decided = [i for i, verdict in enumerate(verdicts) if verdict is not None]
    missing = len(verdicts) - len(decided)
    values = {metrics.of_judge(metrics.EVAL_NO_VERDICT, name): float(missing)}
    if missing:
        print(f"evaluation: the judge {name} gave no verdict on {missing} of {len(verdicts)}.")
    if not decided:
        return values
    outcomes = [float(verdict) for verdict in verdicts if verdict is not None]
    rate = win_rate(outcomes)
    values[metrics.of_judge(metrics.EVAL_WIN_RATE, name)] = rate.mean
    if not quoted:
        return values
    if len(outcomes) > 1:  # what is chosen by one half of the prompts can be read on the other
        values[metrics.EVAL_WIN_RATE_EVEN] = win_rate(outcomes[::2]).mean
        values[metrics.EVAL_WIN_RATE_ODD] = win_rate(outcomes[1::2]).mean
    return values | {
        metrics.EVAL_WIN_RATE: rate.mean,
        metrics.EVAL_WIN_RATE_LOW: rate.low,
        metrics.EVAL_WIN_RATE_HIGH: rate.high,
        metrics.EVAL_LENGTH_CONTROLLED: length_controlled_win_rate(
            outcomes, [answers.lengths[i] for i in decided], [baseline.lengths[i] for i in decided]
        ),
    }
