"""Groups of responses as an advantage rule gets them, for the tests of the baselines' rules."""

from __future__ import annotations

import torch
from torch import Tensor

from gprl_lightning.core.advantage_rule import AdvantageRule, ScoredGroups
from tests.core.examples import double

GROUPS, SIZE, AXES = 3, 5, 2


def scored_groups(rewards: bool = False) -> ScoredGroups:
    """Three groups of five responses on two axes, of a preference model or of two rewards."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    vectors = normal(GROUPS, SIZE, AXES, 2)
    if rewards:
        vectors[..., 1] = 1
    return ScoredGroups(
        vectors=vectors,
        eigenvalues=double([[0.3, 0.7], [0.5, 0.5], [0.8, 0.2]]),
        multipliers=double([0.6, 1.4]),
        kl_coef=0.02,
        tau=0.1,
        logprobs=-20 + 2 * normal(GROUPS, SIZE),
        ref_logprobs=-20 + 2 * normal(GROUPS, SIZE),
        lengths=torch.randint(5, 20, (GROUPS, SIZE), generator=generator),
        finished=torch.rand(GROUPS, SIZE, generator=generator) < 0.7,
        uids=torch.tensor([4, 17, 40]),
        iteration=3,
    )


def identity(statistics: Tensor) -> Tensor:
    """Return the sums of one process: its own."""
    return statistics


def advantages(rule: AdvantageRule, given: ScoredGroups) -> Tensor:
    """Return the rule's advantages in a first iteration, on one process."""
    return rule(given, {}, identity).advantages
