"""General Preference Reinforcement Learning as a LightningModule: read `GPRLModule.training_step`.

One loader batch is one RL iteration: responses are sampled, scored against one another by the
frozen preference model, turned into advantages axis by axis, and the policy is updated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from gprl_lightning.config import AlgorithmConfig, SchedulerConfig
from gprl_lightning.core.advantage_rule import AdvantageRule, ScoredGroups, State
from gprl_lightning.core.batch import Minibatch, PromptBatch, Rollout, ScoredRollout
from gprl_lightning.core.drift import DriftControl
from gprl_lightning.core.dynamic_sampling import groups_with_signal
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.core.importance import ImportanceCorrection
from gprl_lightning.core.losses import kl_estimate, masked_sum, token_weights, zero_outside
from gprl_lightning.core.policy_loss import PolicyLoss, slope_of
from gprl_lightning.core.preference import scores_against
from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.preference_source import PreferenceSource, as_module, source_in
from gprl_lightning.modules.anchors import Anchors
from gprl_lightning.modules.partition import first_parts, micro_batches, minibatches
from gprl_lightning.modules.rollout_logprobs import (
    LogprobCheck,
    confirmed,
    logprobs_of,
)
from gprl_lightning.modules.statistics import (
    UpdateReport,
    UpdateStatistics,
    mismatch_metrics,
    score_metrics,
)
from gprl_lightning.rollout.ahead import Ahead, next_rollout
from gprl_lightning.rollout.sampler import Sampler, Sampling
from gprl_lightning.runtime.processes import (
    of_every_process,
    rank,
    sum_gradients,
    sum_over_processes,
)
from gprl_lightning.tracking import metrics

NOTHING_TO_CORRECT = ImportanceCorrection()


class GPRLModule(L.LightningModule):
    """The policy, its frozen reference, and the frozen preference model that compares responses.

    Args:
        policy: the language model that is trained.
        reference: the policy as it started, for the KL penalty; called as the policy is.
        preference_source: scores the responses of a group on named axes.
        advantage_rule: turns scores into advantages.
        policy_loss: the loss of each token.
        sampler: makes the rollouts.
        sampling: how they are drawn.
        algorithm: the options of the update.
        optimizer: builds the optimiser from the policy's parameters.
        scheduler: the learning-rate schedule over all optimiser steps of the run.
        iterations: length of the run, for the schedule.
        seed: keys the sampler's randomness, with the iteration and the prompt.
        anchored: compare with stored responses of the starting policy, for the drift monitor.
        correction: importance weights for samples that other weights or another engine made.
    """

    def __init__(
        self,
        policy: Policy,
        reference: FrozenModel[Policy],
        preference_source: PreferenceSource,
        advantage_rule: AdvantageRule,
        policy_loss: PolicyLoss,
        sampler: Sampler,
        sampling: Sampling,
        algorithm: AlgorithmConfig,
        optimizer: Callable[[Iterable[Tensor]], Optimizer],
        scheduler: SchedulerConfig,
        iterations: int,
        seed: int = 0,
        anchored: bool = True,
        correction: ImportanceCorrection = NOTHING_TO_CORRECT,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.policy = policy
        self.reference = reference
        self.preference_model = FrozenModel(as_module(preference_source))
        self.advantage_rule, self.policy_loss = advantage_rule, policy_loss
        self.advantage_state: State = {}
        self.sampler, self.sampling, self.algorithm = sampler, sampling, algorithm
        self.correction = correction
        self.make_optimizer, self.scheduler, self.iterations = optimizer, scheduler, iterations
        self.seed = seed
        at_rest = torch.ones(len(preference_source.axes)).double()
        self.control = DriftControl(at_rest, algorithm.kl_coef)
        self.anchors = Anchors(seed) if anchored else None
        self.sampler_differs: bool | None = None  # from the policy's log-probabilities, last time

    @property
    def preference_source(self) -> PreferenceSource:
        """What scores the responses; `preference_model` holds it frozen."""
        return source_in(self.preference_model.module)

    # The algorithm --------------------------------------------------------------------------------

    def training_step(self, prompts: PromptBatch, batch_idx: int) -> dict[str, Any]:
        """One RL iteration (METHOD §2). Returns what callbacks read of it."""
        started = perf_counter()
        rollout = next_rollout(self.sampler, self.policy, prompts, self.sampling, self.seed)
        parts = self._first_parts(rollout)
        rollout, check = confirmed(self.policy, rollout, parts, self.sampler_differs)
        sampled = perf_counter()
        scored = self._score(rollout)
        judged = perf_counter()
        statistics = UpdateStatistics()
        for rows in minibatches(rollout, self.algorithm, self.seed, self._kept(scored)):
            self._update(scored, rows, statistics)
        report = statistics.report(self.algorithm.loss_aggregation, self.sampling.max_new_tokens)
        check = check.with_update(report.ratio_error)
        self.sampler_differs = check.differs
        times = {
            metrics.TIME_ROLLOUT: sampled - started,
            metrics.TIME_SCORE: judged - sampled,
            metrics.TIME_UPDATE: perf_counter() - judged,
        }
        self._log(scored, report, check, times)
        return {"scored": scored, "update": report, "logprobs": check}

    @torch.no_grad()
    def _score(self, rollout: Rollout) -> ScoredRollout:
        embeddings, anchors = self._embed(rollout)
        ref_logprobs = logprobs_of(self.reference, rollout, self._first_parts(rollout))
        groups = self._groups(rollout, embeddings, ref_logprobs)
        state = {name: value.to(self.device) for name, value in self.advantage_state.items()}
        result = self.advantage_rule(groups, state, sum_over_processes)
        self.advantage_state = result.state
        return ScoredRollout(
            rollout=rollout,
            axes=self.preference_source.axes,
            rule=self.advantage_rule,
            groups=groups,
            state=state,
            result=result,
            ref_logprobs=ref_logprobs,
            importance=self.correction(
                rollout.old_logprobs, rollout.sampler_logprobs, rollout.response_mask
            ),
            anchored_scores=(
                scores_against(embeddings.vectors, anchors).mean((1, 2)) if self.anchors else None
            ),
        )

    def _groups(
        self, rollout: Rollout, embeddings: Embeddings, ref_logprobs: Tensor
    ) -> ScoredGroups:
        shape = len(rollout.prompts), rollout.group_size
        mask = rollout.response_mask

        def whole(logprobs: Tensor) -> Tensor:
            return zero_outside(mask, logprobs).double().sum(1).view(shape)

        return ScoredGroups(
            vectors=embeddings.vectors,
            eigenvalues=embeddings.eigenvalues,
            multipliers=self.control.axis_multipliers,
            kl_coef=self.control.kl_coef,
            tau=self.preference_source.tau,
            logprobs=whole(rollout.old_logprobs),
            ref_logprobs=whole(ref_logprobs),
            lengths=mask.sum(1).view(shape),
            finished=rollout.finished.view(shape),
            uids=rollout.prompts.uids,
            iteration=rollout.prompts.iteration,
        )

    def _embed(self, rollout: Rollout) -> tuple[Embeddings, Tensor]:
        """Of the responses, and the vectors of the anchor (if any), by prompt."""
        prompts, groups = rollout.prompts, rollout.grouped_responses()
        if self.anchors:
            anchors = self.anchors.of(prompts, self.sampling, self.reference.module)
            # In one group with the responses, so that the prompt is read once for all.
            groups = [[*group, anchor] for group, anchor in zip(groups, anchors, strict=True)]
        found = self.preference_source.embed(prompts.messages, groups, prompts.columns)
        return found.to(rollout.response_ids.device).split(rollout.group_size)

    @torch.no_grad()
    def log_ratios(self, rollout: Rollout) -> Float[Tensor, " rollouts"]:
        """``log π - log π_ref`` of whole responses, in nats, in the update's micro-batches."""
        rows = torch.arange(len(rollout.responses), device=rollout.response_ids.device)
        parts = micro_batches(rows, rollout, self.algorithm, self.policy.shares_prompts)
        policy, reference = (logprobs_of(n, rollout, parts) for n in (self.policy, self.reference))
        return (policy - reference).double().sum(1)

    def _kept(self, scored: ScoredRollout) -> Tensor:
        """Return the update's groups: all, or with ``oversample`` those with a signal first."""
        keep = len(scored.advantages) // self.algorithm.oversample
        return groups_with_signal(scored.advantages, keep)

    def _first_parts(self, rollout: Rollout) -> Iterable[Tensor]:
        return first_parts(rollout, self.algorithm, self.seed, self.policy.shares_prompts)

    # The update -----------------------------------------------------------------------------------

    def _update(self, scored: ScoredRollout, rows: Tensor, statistics: UpdateStatistics) -> None:
        """One optimiser step; none where loss or gradient is not finite, on whichever process."""
        optimizer, schedule = self._stepped()
        optimizer.zero_grad()
        norm = self._backward(scored, rows, statistics)
        if statistics.close(rows, norm):
            optimizer.step()
        schedule.step()

    def _backward(
        self, scored: ScoredRollout, rows: Tensor, statistics: UpdateStatistics
    ) -> Tensor:
        """Gradients of the minibatch's loss, however its rows are split or spread over processes.

        They are clipped; returned is their norm before.
        """
        tokens = scored.rollout.response_mask[rows].sum()
        counts = torch.stack([torch.full_like(tokens, len(rows)), tokens])
        num_rollouts, num_tokens = sum_over_processes(counts).tolist()
        for micro in micro_batches(
            rows, scored.rollout, self.algorithm, self.policy.shares_prompts
        ):
            self._accumulate(scored.rows(micro), num_rollouts, num_tokens, statistics)
        parameters = [p for p in self.policy.parameters() if p.requires_grad]
        sum_gradients(parameters)
        return torch.nn.utils.clip_grad_norm_(parameters, self.algorithm.max_grad_norm)

    def _accumulate(
        self, batch: Minibatch, num_rollouts: int, num_tokens: int, statistics: UpdateStatistics
    ) -> None:
        cfg, mask, kl_coef = self.algorithm, batch.response_mask, self.control.kl_coef
        longest = self.sampling.max_new_tokens
        dtype = torch.promote_types(next(self.policy.parameters()).dtype, torch.float32)
        weights = token_weights(
            mask, cfg.loss_aggregation, num_rollouts, num_tokens, longest, dtype
        )

        def objective(logprobs: Tensor, batch: Minibatch) -> Tensor:
            kl = kl_estimate(logprobs, batch.ref_logprobs, cfg.kl_estimator)
            return batch.importance * self.policy_loss(logprobs, batch).loss + kl_coef * kl

        logprobs, entropy = self.policy(
            batch.prompt_ids,
            batch.prompt_mask,
            batch.response_ids,
            mask,
            slope_of(objective, batch, weights, self.policy_loss.reach),
        )
        logprobs = zero_outside(mask, logprobs)
        terms = self.policy_loss(logprobs, batch)
        kl = kl_estimate(logprobs, batch.ref_logprobs, cfg.kl_estimator)
        policy_loss = masked_sum(batch.importance * terms.loss, weights, mask)
        loss = policy_loss + kl_coef * masked_sum(kl, weights, mask)
        self.manual_backward(loss)
        statistics.add(batch, logprobs, loss, policy_loss, terms, kl, entropy, weights)

    # Lightning's hooks ----------------------------------------------------------------------------

    def on_train_batch_start(self, batch: PromptBatch, batch_idx: int) -> None:
        # Gradients are summed once per optimiser step, after all micro-batches: DDP's own reducer,
        # which expects one backward pass per forward pass, stays out of it. Lightning puts it back
        # after each training step.
        if self.trainer.world_size > 1:
            ddp: Any = self.trainer.strategy.model
            ddp.require_backward_grad_sync = False

    def _stepped(self) -> tuple[LightningOptimizer, LRScheduler]:
        """The one optimiser and the one schedule, which manual optimisation steps by hand."""
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(schedule, LRScheduler)
        return optimizer, schedule

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer([p for p in self.policy.parameters() if p.requires_grad])
        steps = self.iterations * self.algorithm.inner_epochs * self.algorithm.minibatches
        warmup = round(steps * self.scheduler.warmup_fraction)
        schedule = get_scheduler(self.scheduler.name, optimizer, warmup, steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["sampler_differs"] = self.sampler_differs
        checkpoint["advantage_state"] = dict(self.advantage_state)
        pending = self.sampler.state_dict() if isinstance(self.sampler, Ahead) else None
        checkpoint["pending_rollouts"] = of_every_process(pending)
        if self.anchors:
            checkpoint["anchors"] = of_every_process(self.anchors.state_dict())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.sampler_differs = checkpoint["sampler_differs"]
        self.advantage_state = checkpoint["advantage_state"]
        pending = checkpoint["pending_rollouts"][rank()]
        if isinstance(self.sampler, Ahead) and pending is not None:
            self.sampler.load_state_dict(pending)
        if self.anchors:
            self.anchors.load_state_dict(checkpoint["anchors"][rank()])

    def _log(
        self,
        scored: ScoredRollout,
        report: UpdateReport,
        check: LogprobCheck,
        times: dict[str, float],
    ) -> None:
        if self._trainer is None:
            return
        iteration = float(scored.rollout.prompts.iteration + 1)
        values = {
            **report.metrics,
            **score_metrics(scored, times[metrics.TIME_ROLLOUT], sum_over_processes),
            **times,
            **mismatch_metrics(scored.rollout, self.correction, sum_over_processes),
            metrics.LOGPROB_MISMATCH: check.mismatch,
            metrics.LEARNING_RATE: self._stepped()[1].get_last_lr()[0],
            metrics.ITERATION: iteration,
            "step": iteration,  # what loggers take as their x
        }
        self.log_dict(values)
