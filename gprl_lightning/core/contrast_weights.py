"""Weights of axes that move to where they tell a group's responses apart. Ours, after POW3R.

Source of the idea: "Policy-Aware Rubric Rewards for RLVR" (POW3R), arXiv 2605.20164: a criterion
that all rollouts meet, or none, teaches nothing, whatever its weight; the contrast between rollouts
moves the weights of training, and leaves those of the evaluation. Its formula is not known to us.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.advantage_rule import Advantages, AllReduce, ScoredGroups, State
from gprl_lightning.core.advantages import axis_std

START = "contrast_start"  # in the state: each axis's mean std over groups in the first iteration


@dataclass(frozen=True)
class ContrastWeights:
    """Give another rule λ' in the place of λ, prompt by prompt; see `contrast_weights`.

    Attributes:
        rule: makes the advantages; an `AdvantageRule`.
    """

    rule: Callable[[ScoredGroups, State, AllReduce], Advantages]

    def __call__(self, groups: ScoredGroups, state: State, all_reduce: AllReduce) -> Advantages:
        """Return the rule's result under the moved weights."""
        std = axis_std(groups.scores())
        start = first_spread(std, state, all_reduce)
        moved = contrast_weights(groups.eigenvalues, std, start)
        inner = {name: value for name, value in state.items() if name != START}
        result = self.rule(replace(groups, eigenvalues=moved), inner, all_reduce)
        return replace(result, state={**result.state, START: start})


def first_spread(
    std: Float[Tensor, "groups axes"], state: State, all_reduce: AllReduce
) -> Float[Tensor, " axes"]:
    """Return each axis's mean std over all groups in the first iteration in which it had any."""
    none = torch.zeros(std.shape[1], device=std.device)
    before = state.get(START, none)
    count = torch.full((1,), float(len(std)), device=std.device)
    sums = all_reduce(torch.cat([std.sum(0), count]))
    mean = (sums[:-1] / sums[-1]).to(before)
    return torch.where((before == 0) & mean.isfinite(), mean, before)


def contrast_weights(
    eigenvalues: Float[Tensor, "groups axes"],
    std: Float[Tensor, "groups axes"],
    start: Float[Tensor, " axes"],
) -> Float[Tensor, "groups axes"]:
    """Compute ``λ'_l = λ_l c_l · Σ|λ| / Σ|λ c|`` with the contrast ``c_l = std_l / start_l``.

    The std of a group's scores on an axis is measured by what it was in the first iteration, since
    rewards have any scale. The weights' sum is kept. A prompt on which no axis tells anything apart
    keeps its λ.

    Args:
        eigenvalues: λ of each prompt.
        std: of the group's scores on each axis.
        start: what is usual of each axis; 0: never seen, and the axis counts nothing.
    """
    usual = start.to(std)
    contrast = torch.where(usual > 0, std / usual, 0.0)
    moved = eigenvalues * contrast.to(eigenvalues)
    before, after = (x.abs().sum(-1, keepdim=True) for x in (eigenvalues, moved))
    return torch.where(after > 0, moved * before / after, eigenvalues)
