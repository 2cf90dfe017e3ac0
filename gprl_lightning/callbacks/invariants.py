"""What must hold while a run goes on, checked at next to no cost: `gprl_lightning.errors`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch

from gprl_lightning.callbacks.movement import Movement
from gprl_lightning.callbacks.structure import (
    frozen_checksums,
    require_finite_weights,
    require_frozen,
    require_optimizer,
    require_trainable,
)
from gprl_lightning.core.batch import Rollout
from gprl_lightning.core.iteration import ITERATION, Iteration, LogprobCheck, UpdateReport
from gprl_lightning.core.precision import LogprobBounds
from gprl_lightning.core.response_ends import misplaced_ends
from gprl_lightning.errors import (
    EndOfSequenceMasked,
    FrozenWeightsChanged,
    LogprobMismatch,
    LossScale,
    NoSignal,
    NotText,
    RatioNotOne,
    ReferenceFollowsPolicy,
    ReferenceNotAtStart,
    TooManyBadSteps,
)
from gprl_lightning.models.agreement import require_policy_tokens
from gprl_lightning.models.policy import Policy
from gprl_lightning.runtime.checkpoint_io import write_to
from gprl_lightning.runtime.disk import or_warn
from gprl_lightning.runtime.processes import max_over_processes, rank
from gprl_lightning.runtime.sharding import local
from gprl_lightning.tracking import metrics

WEIGHT_TOLERANCE = 1e-4  # of the loss's weights, relative: they are sums in float32
STILL_ITERATIONS = 5  # after which a reference at distance exactly 0 counts as one that follows


class Invariants(L.Callback):
    """Stops the run, with an error that has a name, where it is not what it claims to be.

    Must be the first callback: what it refuses is then neither logged, nor reacted to, nor saved.

    Args:
        folder: the run's folder, where the batches of bad steps go; None: nowhere.
        max_bad_steps: optimiser steps, not finite, that may be skipped; one more stops the run.
        max_logprob_mismatch: nats by which the sampler may be off; None: by precision.
        checksum_every: iterations between checks of the frozen weights.
        max_silent_iterations: how many in a row, or all of a shorter run, may pass without a signal
            on any process before it ends; None: any number.
    """

    def __init__(
        self,
        folder: Path | None = None,
        max_bad_steps: int = 3,
        max_logprob_mismatch: float | None = None,
        checksum_every: int = 50,
        max_silent_iterations: int | None = 50,
    ):
        self.folder, self.max_bad_steps = folder, max_bad_steps
        self.max_logprob_mismatch, self.checksum_every = max_logprob_mismatch, checksum_every
        self.max_silent_iterations = max_silent_iterations
        self.bad_steps = self.silent = 0
        self.first, self.still = True, 0
        self.movement, self.weights_checked = Movement(), False
        self.frozen: dict[str, str] = {}

    # Before the first rollout ---------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        require_trainable(pl_module)
        require_frozen(pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        require_optimizer(trainer, pl_module)
        require_frozen(pl_module)
        if isinstance(pl_module.trained, Policy):
            require_policy_tokens(pl_module.trained)
        self.frozen = frozen_checksums(pl_module)

    # Every iteration ------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.movement.before(trainer.optimizers)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        iteration: Iteration = outputs[ITERATION]
        signal = float(max_over_processes(torch.tensor(float(iteration.signal)))) > 0
        self.silent = 0 if signal else self.silent + 1
        trainer.should_stop = trainer.should_stop or self._too_silent(pl_module.iterations)
        update, group = iteration.update, iteration.group
        if group is not None:
            self._require_responses(pl_module.trained, group.scored.rollout)
        if group is not None and group.logprobs is not None:
            self._require_logprobs(group.logprobs)
            self._require_first_update(iteration.index, update, group.logprobs.bounds)
        self._require_reference_stays(update)
        if update.weight_error > WEIGHT_TOLERANCE:
            raise LossScale(
                "algorithm.micro_batch_size: expected weights of the loss that do not depend on "
                f"the split; found sums that are off by {update.weight_error:.1%}. Count rollouts "
                "and tokens of the whole minibatch, over all micro-batches and processes."
            )
        if not self.weights_checked or (batch.iteration + 1) % self.checksum_every == 0:
            require_finite_weights(pl_module)
            self.weights_checked = True
        if update.bad_rows:
            self._count_bad_steps(pl_module, iteration)
        else:
            self.movement.after(trainer.optimizers, signal)
        pl_module.log(metrics.BAD_STEPS, float(self.bad_steps))
        if (iteration.index + 1) % self.checksum_every == 0:
            self._require_unchanged(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        require_finite_weights(pl_module)
        self._require_unchanged(pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Raise here, and not in the iteration: what led there is saved by now."""
        if self._too_silent(pl_module.iterations):
            raise NoSignal(
                f"algorithm.max_silent_iterations={self.max_silent_iterations}: expected rewards "
                f"that tell a prompt's responses apart; found {self.silent} iterations in a row "
                "in which every advantage was 0, so that nothing was learnt. They are saved. Look "
                "at rollouts/: if responses are all alike, raise rollout.temperature; if they "
                "differ, preference_model.* does not tell them apart."
            )

    def _too_silent(self, iterations: int) -> bool:
        limit = self.max_silent_iterations
        return limit is not None and self.silent >= min(limit, iterations)

    def state_dict(self) -> dict[str, Any]:
        return {"bad_steps": self.bad_steps, "silent": self.silent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.bad_steps, self.silent = state_dict["bad_steps"], state_dict["silent"]

    def _require_logprobs(self, check: LogprobCheck) -> None:
        limit = self.max_logprob_mismatch
        limit = check.bounds.limit if limit is None else limit
        if limit < check.mismatch < math.inf:  # what is not finite is a bad step
            raise LogprobMismatch(
                "rollout: expected log-probabilities of the policy's own forward pass, within "
                f"{limit} nats; found a difference of {check.mismatch:.3g}. Sampler and update do "
                "not share temperature, weights or the place of a token. If the model is known to "
                "round so coarsely, raise algorithm.max_logprob_mismatch."
            )

    def _require_responses(self, policy: Any, rollout: Rollout) -> None:
        misplaced = misplaced_ends(
            rollout.response_ids, rollout.response_mask, rollout.finished, policy.eos_ids
        )
        first = policy.decode(rollout.response_ids[:1], rollout.response_mask[:1])
        text = all(isinstance(r, str) for r in rollout.responses) and first == rollout.responses[:1]
        flags = torch.tensor([float(misplaced.any()), float(not text)])
        ends, texts = max_over_processes(flags).tolist()
        if ends:
            raise EndOfSequenceMasked(
                "rollout.sampler: expected each response's mask to end with its EOS (one of "
                f"{list(policy.eos_ids)}), or, truncated, to hold none; found "
                f"{int(misplaced.sum())} of {len(misplaced)} responses otherwise. Build the mask "
                "from lengths, and not from the pad id, which may equal EOS."
            )
        if texts:
            raise NotText(
                "rollout.sampler: expected the decoded responses, as text, for the preference "
                f"model; found {str(rollout.responses[:1])[:80]}. Return policy.decode(ids, mask)."
            )

    def _require_first_update(
        self, iteration: int, update: UpdateReport, bounds: LogprobBounds
    ) -> None:
        if not self.first:
            return
        self.first = False
        if update.ratio_error > bounds.rounding:
            raise RatioNotOne(
                "rollout.sampler: expected a ratio of 1 before the first update, within "
                f"{bounds.rounding}; found log-probabilities that moved by "
                f"{update.ratio_error:.3g} nats since the rollout. Switch off what makes forwards "
                "differ, such as dropout."
            )
        gap = update.reference_gap
        if iteration == 0 and gap is not None and gap > bounds.rounding:
            raise ReferenceNotAtStart(
                "policy.path: expected a KL of 0 to the reference at the start, within "
                f"{bounds.rounding}; found log-probabilities {gap:.3g} nats "
                "apart. The reference must be the policy as it starts."
            )

    def _require_reference_stays(self, update: UpdateReport) -> None:
        moved = self.movement.seen and not update.bad_rows
        self.still = self.still + 1 if moved and update.reference_gap == 0 else 0
        if self.still > STILL_ITERATIONS:
            raise ReferenceFollowsPolicy(
                "policy.path: expected a policy that leaves its reference behind; found their "
                f"log-probabilities equal after {self.still} updates. The reference shares the "
                "policy's weights; with policy.lora its adapters are not switched off."
            )

    def _count_bad_steps(self, pl_module: Any, iteration: Iteration) -> None:
        self.bad_steps += len(iteration.update.bad_rows)
        file = self._save(pl_module, iteration)
        if self.bad_steps > self.max_bad_steps:
            raise TooManyBadSteps(
                f"algorithm.max_bad_steps={self.max_bad_steps}: expected finite losses and "
                f"gradients; found {self.bad_steps} optimiser steps that were not, the last in "
                f"iteration {iteration.index + 1}, and skipped them. Its batch, for replay: "
                f"{file}. Lower optimizer.lr, or look for the NaN in it."
            )

    def _save(self, pl_module: Any, iteration: Iteration) -> Path | None:
        """Write all that a replay takes: the scored rollout, the steps' rows and the weights."""
        if self.folder is None:
            return None
        file = self.folder / "bad_steps" / f"iteration_{iteration.index + 1:06d}_rank{rank()}.pt"
        trainable = {n: p for n, p in pl_module.trained.named_parameters() if p.requires_grad}
        batch = {
            "scored": iteration.group.scored if iteration.group else None,
            "control": iteration.group.control if iteration.group else None,
            "rows": iteration.update.bad_rows,
            "weights": {n: local(p.detach()) for n, p in trainable.items()},  # of this process
        }
        with or_warn(file, "the batch cannot be replayed"):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                write_to(stream, batch)
            return file
        return None

    def _require_unchanged(self, pl_module: Any) -> None:
        now = frozen_checksums(pl_module)
        changed = [name for name, value in now.items() if value != self.frozen[name]]
        if max_over_processes(torch.tensor([float(len(changed))])) > 0:
            raise FrozenWeightsChanged(
                f"{', '.join(changed) or 'another process'}: expected the weights that the run "
                "started with; found others. Whatever writes to them, such as a callback, must "
                "not."
            )
