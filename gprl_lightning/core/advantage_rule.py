"""The protocol of an advantage rule: what it is given, what it returns.

A rule is any function from one iteration's `ScoredGroups` and the state that it returned last time
to `Advantages`. It is pure: the same arguments give the same result, so that a resumed run goes on
bit for bit and a logged iteration can be derived again by the rule itself. What it may read is one
number, or one vector, per response, prompt or axis: all of it fits in the rows of a rollout's log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from gprl_lightning.core.preference import group_scores, pairwise_scores
from gprl_lightning.core.records import TensorRecord

AllReduce = Callable[[Tensor], Tensor]
State = Mapping[str, Tensor]  # by name; empty before the first iteration


@dataclass(frozen=True)
class ScoredGroups(TensorRecord):
    """The groups of this process in one iteration.

    Attributes:
        vectors: of each response on each axis, see `core.embeddings`.
        eigenvalues: λ of each prompt.
        multipliers: m of each axis, the drift controller's; 1 at rest.
        kl_coef: β, likewise.
        tau: temperature of the source's win probability.
        logprobs: log π_old of each whole response, in nats.
        ref_logprobs: log π_ref of each whole response.
        lengths: its tokens.
        finished: False where it was cut.
        uids: the stable number of each prompt; with ``iteration`` it keys a rule's randomness.
        iteration: 0-based.
    """

    vectors: Float[Tensor, "groups size axes entries"]
    eigenvalues: Float[Tensor, "groups axes"]
    multipliers: Float[Tensor, " axes"]
    kl_coef: float
    tau: float
    logprobs: Float[Tensor, "groups size"]
    ref_logprobs: Float[Tensor, "groups size"]
    lengths: Int[Tensor, "groups size"]
    finished: Bool[Tensor, "groups size"]
    uids: Int[Tensor, " groups"]
    iteration: int

    def scores(self) -> Float[Tensor, "groups size axes"]:
        """Mean score of each response against the rest of its group, by axis."""
        return group_scores(self.vectors)

    def pairs(self) -> Float[Tensor, "groups size size axes"]:
        """Return ``s_l(i, j)``, before λ and m."""
        return pairwise_scores(self.vectors)

    def weights(self) -> Float[Tensor, "groups axes"]:
        """Return ``λ_l(x) · m_l``, which multiplies an axis's advantages before they are added."""
        return self.eigenvalues * self.multipliers.to(self.eigenvalues)


@dataclass(frozen=True)
class Advantages(TensorRecord):
    """What a rule makes of them.

    Attributes:
        group_scores: before normalisation: what the drift monitor watches and metrics show.
        axis_advantages: by axis, before they are weighted and added, for metrics.
        advantages: of each response.
        state: for the next iteration, the same on every process.
    """

    group_scores: Float[Tensor, "groups size axes"]
    axis_advantages: Float[Tensor, "groups size axes"]
    advantages: Float[Tensor, "groups size"]
    state: State


@runtime_checkable
class AdvantageRule(Protocol):
    """From scores to advantages."""

    def __call__(self, groups: ScoredGroups, state: State, all_reduce: AllReduce) -> Advantages:
        """The advantages of one iteration.

        Args:
            groups: of this process.
            state: what the last iteration returned; empty in the first.
            all_reduce: sums a tensor over processes; called equally often on each.
        """
        ...
