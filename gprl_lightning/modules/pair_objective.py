"""Learning from pairs as a LightningModule: DPO, IPO, SimPO, SPPO, GPO and online DPO.

One loader batch is one iteration. Its pairs stand in a file, or are the best and the worst response
of each group by a preference source. What tells the methods apart is the loss, who samples, and how
long the reference stays:

    DPO, IPO, SimPO   the starting policy samples (or a file holds the pairs), and is the reference
    online DPO        the policy samples; the starting policy is the reference
    SPPO, GPO         the round's policy samples and is the reference, until the round ends

A round's policy *is* the reference, and pairs are drawn when they are needed, keyed by seed,
iteration and prompt: nothing that a resume could lose is kept between iterations (ours).
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter as now
from typing import Any

import torch
from torch import Tensor, nn

from gprl_lightning.core.batch import PromptBatch
from gprl_lightning.core.iteration import ITERATION, Iteration
from gprl_lightning.core.pair_losses import PairLoss
from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.preference_source import as_module
from gprl_lightning.modules.labelled_pairs import (
    LabelledPairs,
    pair_logprobs,
    pair_minibatches,
    pair_parts,
)
from gprl_lightning.modules.objective import PolicyObjective
from gprl_lightning.modules.pair_options import PairOptions, own_reference, refuse_online_options
from gprl_lightning.modules.pair_source import drawn_pairs, pair_loader, reference_sums
from gprl_lightning.modules.pair_statistics import PairStatistics, pair_metrics
from gprl_lightning.modules.parts import Parts
from gprl_lightning.runtime.processes import sum_over_processes
from gprl_lightning.runtime.sharding import agreed


class PairObjective(PolicyObjective):
    """A policy, a reference, and a loss on pairs of responses.

    Args:
        parts: of the run; a reference or a preference source is built only if it is read.
        loss: of each pair, with a β of its own.
        options: `PairOptions` by name.
    """

    def __init__(self, parts: Parts, loss: PairLoss, **options: Any):
        config = parts.config
        refuse_online_options(config)
        steps = config.algorithm.inner_epochs * config.algorithm.minibatches
        super().__init__(
            parts.policy, parts.optimizer, config.scheduler, config.iterations, steps,
            config.algorithm.max_grad_norm,
        )  # fmt: skip
        self.parts, self.loss, self.options = parts, loss, PairOptions(**options)
        self.algorithm, self.seed = config.algorithm, config.seed
        sampled = self.options.pairs == "sampled"
        self.source = FrozenModel(as_module(parts.source)) if sampled else None
        self.reference = own_reference(parts, self.options, loss.needs_reference)

    # The algorithm --------------------------------------------------------------------------------

    def training_step(self, batch: PromptBatch | LabelledPairs, batch_idx: int) -> dict[str, Any]:
        """Run one iteration: pairs, their reference, updates, and the end of a round."""
        started = now()
        pairs, group, sampling = drawn_pairs(self.parts, self.options, self._player, batch)
        compared = self.reference if self.loss.needs_reference else None
        ref_logprobs = reference_sums(compared, pairs, self.algorithm)
        judged = now()
        statistics = PairStatistics(compared is not None, self.options.round_length is None)
        for rows in pair_minibatches(pairs, self.algorithm, self.seed):
            self._update(pairs, ref_logprobs, rows, statistics)
        if self.options.ends_round(pairs.iteration):
            self.opponent.load_state_dict(self.policy.state_dict())
        report = statistics.report()
        if self._trainer is not None:
            rate = self.optimizer_and_schedule()[1].get_last_lr()[0]
            seconds = sampling, judged - started - sampling, now() - judged
            self.log_dict(pair_metrics(report, group, pairs.iteration, rate, seconds))
        signal = bool((pairs.labels != 0.5).any())
        return {ITERATION: Iteration(pairs.iteration, report, group, signal)}

    @property
    def opponent(self) -> Policy:
        """The network behind the reference, of a method that has one."""
        assert self.reference is not None
        return self.reference.module

    @property
    def _player(self) -> Policy:
        """Who samples; nobody is asked where pairs stand in a file."""
        sampled = self.options.pairs == "sampled"
        return self.opponent if sampled and self.options.player == "reference" else self.policy

    # The update -----------------------------------------------------------------------------------

    def _update(
        self, pairs: LabelledPairs, ref: Tensor, index: Tensor, statistics: PairStatistics
    ) -> None:
        """Step the optimiser once; not at all if loss or gradient is not finite anywhere."""
        optimizer, schedule = self.optimizer_and_schedule()
        optimizer.zero_grad()
        norm = self._backward(pairs, ref, index, statistics)
        if statistics.close(pairs.rows[index].flatten(), norm):
            optimizer.step()
        schedule.step()

    def _backward(
        self, pairs: LabelledPairs, ref: Tensor, index: Tensor, statistics: PairStatistics
    ) -> Tensor:
        """Add up the gradients of the mean loss over all processes' pairs, and clip them.

        Returns their norm before.
        """
        count = int(sum_over_processes(torch.tensor(len(index), device=ref.device)))
        parts = pair_parts(pairs, index, self.algorithm)
        for part, counts in agreed(self.policy, parts):
            given, entropy = pair_logprobs(self.policy, pairs, part, ref)
            terms = self.loss(given)
            self.manual_backward(counts * terms.loss.sum() / count)
            if counts:
                statistics.add(given, terms, entropy)
        return self.clipped_gradients()

    # Lightning's hooks, and what callbacks ask for ------------------------------------------------

    @property
    def frozen(self) -> dict[str, nn.Module]:
        """Return what must not move: the source, and a reference that stays."""
        still: dict[str, nn.Module | None] = {"preference_model": self.source}
        if self.options.round_length is None:
            still["reference"] = self.reference
        return {name: module for name, module in still.items() if module is not None}

    def loader(self, rank: int, world_size: int) -> Iterable[Any]:
        """Return the loader of the prompts, or of the file's pairs, of one process."""
        return pair_loader(self.parts, self.options, rank, world_size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.options.round_length is not None:
            checkpoint["round_policy"] = self.opponent.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.options.round_length is not None:
            self.opponent.load_state_dict(checkpoint["round_policy"])
