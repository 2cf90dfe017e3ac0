"""General Preference Reinforcement Learning as a LightningModule: read `GPRLModule.training_step`.

One loader batch is one RL iteration: responses are sampled, scored against one another by the
frozen preference model, turned into advantages axis by axis, and the policy is updated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gprl_lightning.config import AlgorithmConfig, SchedulerConfig
from gprl_lightning.core.advantage_rule import AdvantageRule, State
from gprl_lightning.core.batch import PromptBatch, Rollout, ScoredRollout
from gprl_lightning.core.drift import DriftControl
from gprl_lightning.core.dynamic_sampling import groups_with_signal
from gprl_lightning.core.importance import ImportanceCorrection
from gprl_lightning.core.iteration import (
    ITERATION,
    GroupResult,
    Iteration,
    LogprobCheck,
    UpdateReport,
)
from gprl_lightning.core.policy_loss import AtOldPolicy, PolicyLoss
from gprl_lightning.core.preference import scores_against
from gprl_lightning.data.prompts import PromptLoader
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.models.policy import Policy, whole_policy
from gprl_lightning.models.preference_source import PreferenceSource, as_module, source_in
from gprl_lightning.modules.anchors import Anchors, of_this_process
from gprl_lightning.modules.chi_squared import chi2_weight
from gprl_lightning.modules.iteration_log import Laps, iteration_metrics
from gprl_lightning.modules.minibatch_loss import MinibatchLoss, minibatch_sizes
from gprl_lightning.modules.objective import OptimizerFactory, PolicyObjective
from gprl_lightning.modules.partition import first_parts, micro_batches, minibatches
from gprl_lightning.modules.parts import Parts
from gprl_lightning.modules.rollout_logprobs import (
    confirm_old_logprobs,
    logprobs_of,
    sampler_is_off,
)
from gprl_lightning.modules.scoring import embed_groups, groups_of
from gprl_lightning.modules.statistics import UpdateStatistics
from gprl_lightning.rollout.ahead import Ahead, next_rollout
from gprl_lightning.rollout.sampler import Sampler, Sampling
from gprl_lightning.runtime.processes import (
    of_every_process,
    processes,
    rank,
    sum_over_processes,
)
from gprl_lightning.runtime.sharding import agreed
from gprl_lightning.tracking import metrics

NOTHING_TO_CORRECT = ImportanceCorrection()


class GPRLModule(PolicyObjective):
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
        optimizer: OptimizerFactory,
        scheduler: SchedulerConfig,
        iterations: int,
        seed: int = 0,
        anchored: bool = True,
        correction: ImportanceCorrection = NOTHING_TO_CORRECT,
    ):
        steps = algorithm.inner_epochs * algorithm.minibatches
        super().__init__(policy, optimizer, scheduler, iterations, steps, algorithm.max_grad_norm)
        self.reference = reference
        self.preference_model = FrozenModel(as_module(preference_source))
        self.advantage_rule, self.policy_loss = advantage_rule, policy_loss
        self.advantage_state: State = {}
        self.sampler, self.sampling, self.algorithm = sampler, sampling, algorithm
        self.correction = correction
        self.seed = seed
        at_rest = torch.ones(len(preference_source.axes)).double()
        self.control = DriftControl(at_rest, algorithm.kl_coef)
        self.anchors = Anchors(seed, sampler) if anchored else None
        self.prompt_loader: Callable[[int, int], PromptLoader] | None = None
        self.sampler_differs: bool | None = None  # from the policy's log-probabilities, last time

    @property
    def preference_source(self) -> PreferenceSource:
        """What scores the responses; `preference_model` holds it frozen."""
        return source_in(self.preference_model.module)

    @classmethod
    def from_parts(cls, parts: Parts) -> GPRLModule:
        """Build the module from the parts of a run; what ``objective=gprl`` names."""
        config = parts.config
        module = cls(
            policy=parts.policy,
            reference=parts.start,
            preference_source=parts.source,
            advantage_rule=parts.advantage_rule,
            policy_loss=parts.policy_loss,
            sampler=parts.sampler,
            sampling=parts.sampling,
            algorithm=config.algorithm,
            optimizer=parts.optimizer,
            scheduler=config.scheduler,
            iterations=config.iterations,
            seed=config.seed,
            anchored=config.drift.enabled and config.drift.anchor,
            correction=parts.correction,
        )
        module.prompt_loader = parts.prompt_loader
        return module

    # The algorithm --------------------------------------------------------------------------------

    def training_step(self, prompts: PromptBatch, batch_idx: int) -> dict[str, Iteration]:
        """Run one RL iteration (METHOD §2). Return what callbacks read of it."""
        laps = Laps()
        rollout, check = self._sample(prompts)
        laps.end(metrics.TIME_ROLLOUT)
        scored = self._score(rollout)
        laps.end(metrics.TIME_SCORE)
        statistics = UpdateStatistics(own=check.by_update)
        for rows in minibatches(rollout, self.algorithm, self.seed, self._kept(scored)):
            self._update(scored, rows, statistics)
        report = statistics.report(self.algorithm.loss_aggregation, self.sampling.max_new_tokens)
        laps.end(metrics.TIME_UPDATE)
        return {ITERATION: self._finished(scored, report, check, laps.seconds)}

    def _sample(self, prompts: PromptBatch) -> tuple[Rollout, LogprobCheck]:
        """G responses to each prompt, with the log-probabilities that the update starts from."""
        with whole_policy(self.policy):
            rollout = next_rollout(self.sampler, self.policy, prompts, self.sampling, self.seed)
            parts = self._first_parts(rollout)
            once = self.steps_per_iteration == 1
            return confirm_old_logprobs(self.policy, rollout, parts, self.sampler_differs, once)

    @torch.no_grad()
    def _score(self, rollout: Rollout) -> ScoredRollout:
        stored = None
        with whole_policy(self.reference):
            if self.anchors:
                stored = self.anchors.of(rollout.prompts, self.sampling, self.reference.module)
            ref_logprobs = logprobs_of(self.reference, rollout, self._first_parts(rollout))
        embeddings, anchors = embed_groups(self.preference_source, rollout, stored)
        tau = self.preference_source.tau
        groups = groups_of(rollout, embeddings, ref_logprobs, self.control, tau)
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

    def _finished(
        self,
        scored: ScoredRollout,
        report: UpdateReport,
        check: LogprobCheck,
        seconds: dict[str, float],
    ) -> Iteration:
        """What the iteration was like: logged, and returned for callbacks."""
        scored = scored.on_host()  # whole, so that nobody waits for one of its numbers
        check = check.with_update(report.sampler_gap)
        self.sampler_differs = sampler_is_off(check)
        if self._trainer is not None:
            rate = float(self.optimizer_and_schedule()[1].get_last_lr()[0])
            self.log_dict(iteration_metrics(scored, report, check, self.correction, seconds, rate))
        group = GroupResult(scored, check, self.control)
        signal = bool(scored.advantages.any())
        return Iteration(scored.rollout.prompts.iteration, report, group, signal)

    def _kept(self, scored: ScoredRollout) -> Tensor:
        """Return the update's groups: all, or with ``oversample`` those with a signal first."""
        keep = len(scored.advantages) // self.algorithm.oversample
        if keep == len(scored.advantages):
            return torch.arange(keep)
        return groups_with_signal(scored.advantages, keep)

    def _first_parts(self, rollout: Rollout) -> Iterable[Tensor]:
        return first_parts(rollout, self.algorithm, self.seed, self.policy.shares_prompts)

    # The update -----------------------------------------------------------------------------------

    def _update(self, scored: ScoredRollout, rows: Tensor, statistics: UpdateStatistics) -> None:
        """One optimiser step; none where loss or gradient is not finite, on whichever process."""
        optimizer, schedule = self.optimizer_and_schedule()
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
        policy_loss = AtOldPolicy(self.policy_loss) if statistics.own else self.policy_loss
        loss = MinibatchLoss(
            policy_loss,
            self.control.kl_coef,
            self.algorithm,
            self.sampling.max_new_tokens,
            chi2_weight(self.algorithm.chi2_coef, scored.groups),
        )
        sizes = minibatch_sizes(scored.rollout.lengths[rows])
        shared = self.policy.shares_prompts
        parts = micro_batches(rows, scored.rollout, self.algorithm, shared)
        for micro, counts in agreed(self.policy, parts):
            batch = scored.rows(micro)
            terms = loss(self.policy, batch, sizes)
            self.manual_backward(terms.loss * counts)
            if counts:
                statistics.add(batch, terms)
        return self.clipped_gradients()

    # Lightning's hooks ----------------------------------------------------------------------------

    @property
    def frozen(self) -> dict[str, nn.Module]:
        """The reference and the preference model."""
        return {"reference": self.reference, "preference_model": self.preference_model}

    def loader(self, rank: int, world_size: int) -> PromptLoader:
        """Return the loader of the prompts of one process.

        Raises:
            ConfigError: fewer prompts than one iteration takes, or a module that was built by hand
                without one.
        """
        if self.prompt_loader is None:
            raise ConfigError("GPRLModule: expected a loader; pass one to trainer.fit.")
        loader = self.prompt_loader(rank, world_size)
        if self.anchors:
            self.anchors.upcoming = loader.batch
        if isinstance(self.sampler, Ahead):
            self.sampler.upcoming = loader.batch_or_none
        return loader

    def contents_changed(self, names: set[str]) -> None:
        """Forget the anchors: they answer other prompts, or come from another policy."""
        if names & {"data", "tokenizer", "policy"} and self.anchors:
            self.anchors.load_state_dict({"responses": {}})

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
        # More or fewer processes get other prompts: what was sampled ahead for them is of no use.
        all_pending = checkpoint["pending_rollouts"]
        pending = all_pending[rank()] if len(all_pending) == processes() else None
        if isinstance(self.sampler, Ahead) and pending is not None:
            self.sampler.load_state_dict(pending)
        if self.anchors:
            self.anchors.load_state_dict(of_this_process(checkpoint["anchors"]))
