"""DAPO's over-long filtering: a response that was cut teaches nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from gprl_lightning.core.advantage_rule import Advantages, AllReduce, ScoredGroups, State


@dataclass(frozen=True)
class OverlongFilter:
    """Set the advantages of unfinished responses to 0, after another rule has made them.

    Source: DAPO, arXiv 2503.14476, section 3.4, which masks the loss of such responses. Here their
    tokens still count in the loss's normaliser and in the KL penalty (ours). They still count in
    their group's mean, as in the paper.

    Attributes:
        rule: makes the advantages; an `AdvantageRule`.
    """

    rule: Callable[[ScoredGroups, State, AllReduce], Advantages]

    def __call__(self, groups: ScoredGroups, state: State, all_reduce: AllReduce) -> Advantages:
        """Return the rule's result with 0 where a response was cut."""
        result = self.rule(groups, state, all_reduce)
        kept = torch.where(groups.finished, result.advantages, 0.0)
        return replace(result, advantages=kept)
