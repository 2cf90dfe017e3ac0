"""What an iteration of any objective gives to those who watch it: callbacks know no objective.

An objective is a LightningModule whose ``training_step`` returns ``{"iteration": Iteration}``
(under manual optimisation Lightning takes a dictionary). Ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from gprl_lightning.core.batch import ScoredRollout
from gprl_lightning.core.drift import DriftControl
from gprl_lightning.core.precision import LogprobBounds

ITERATION = "iteration"  # the key of what `training_step` returns


@dataclass(frozen=True)
class UpdateReport:
    """An iteration's update, the same on every process.

    Attributes:
        metrics: what is logged, by name.
        ratio_error: largest ``|log π_θ − log π_old|`` at the first optimiser step, before it, in
            nats; 0 for an objective without π_old.
        reference_gap: largest ``|log π_θ − log π_ref|``, likewise; None without a reference.
        weight_error: relative error of the sums of the tokens' weights, the worst optimiser step's.
        bad_rows: the rows (of this process) of each step that was skipped, not being finite.
        sampler_gap: largest ``|log π_θ − log π_old|`` with π_old as the rollout has it, which is
            `ratio_error` unless the update takes its own log-probabilities for π_old's.
    """

    metrics: dict[str, Tensor]
    ratio_error: float
    reference_gap: float | None
    weight_error: float
    bad_rows: tuple[Tensor, ...]
    sampler_gap: float = 0.0


@dataclass(frozen=True)
class LogprobCheck:
    """How far the sampler's log-probabilities lay from the policy's.

    Attributes:
        mismatch: the largest difference, in nats, over rows and processes.
        bounds: what this precision allows.
        recomputed: True if the policy's own were taken instead.
        by_update: True if these are the update's own, which costs no forward pass.
    """

    mismatch: float
    bounds: LogprobBounds
    recomputed: bool
    by_update: bool = False

    def with_update(self, sampler_gap: float) -> LogprobCheck:
        """Take the update's own forward pass, on all rows of its first step, as the better check
        of log-probabilities that no other pass has recomputed."""
        known = self.recomputed and not self.by_update
        return self if known else replace(self, mismatch=sampler_gap)


@dataclass(frozen=True)
class GroupResult:
    """The sampled groups of an iteration.

    Attributes:
        scored: the rollout with its scores and advantages.
        logprobs: the check of the sampler's log-probabilities; None for an objective whose update
            does not read them.
        control: the multipliers and the β that the iteration was made with.
    """

    scored: ScoredRollout
    logprobs: LogprobCheck | None
    control: DriftControl


@dataclass(frozen=True)
class Iteration:
    """One iteration of an objective.

    Attributes:
        index: 0-based.
        update: what the optimiser steps were like.
        group: what was sampled and scored; None for an objective that samples nothing.
        signal: True if anything was there to learn from, on this process.
    """

    index: int
    update: UpdateReport
    group: GroupResult | None
    signal: bool


class Objective(Protocol):
    """What callbacks, checkpoints and the run's identity ask of a LightningModule that trains."""

    iterations: int

    @property
    def trained(self) -> nn.Module:
        """What the optimiser holds, exactly: its parameters that take gradients."""
        ...

    @property
    def frozen(self) -> Mapping[str, nn.Module]:
        """What must not move now, by name."""
        ...

    def loader(self, rank: int, world_size: int) -> Iterable[Any]:
        """Return what one process iterates over: one batch an iteration, resumable by
        ``state_dict``."""
        ...

    def contents_changed(self, names: set[str]) -> None:
        """Forget what was made from contents (data, policy, …) that a resume has replaced."""
        ...


@runtime_checkable
class Controlled(Protocol):
    """What the drift monitor and a replayed schedule ask for besides: a module that obeys them."""

    control: DriftControl
