"""A reward that is pursued up to a set point and not beyond: a constraint on the proxy.

Source: Moskovitz et al., "Confronting Reward Model Overoptimization with Constrained RLHF", arXiv
2310.04373: past a *proxy point* θ_l a reward model is no guide any more, so each is to stay at or
below it, and a Lagrange multiplier μ_l, learnt by gradient ascent, mixes the advantages, each
normalised by itself (their μ-PPO). Ours: μ is projected on [0, bound] instead of squashed by a
sigmoid, and the set point is a gain in units of the starting policy's own spread.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.advantage_rule import Advantages, AllReduce, ScoredGroups, State
from gprl_lightning.core.advantages import normalize_axes
from gprl_lightning.core.ranges import require_epsilon, require_range
from gprl_lightning.core.reinforce_pp import absolute_rewards

KEY = "algorithm.advantage"


@dataclass(frozen=True)
class Constrained:
    """Compute ``Â(i) = Σ_l λ_l m_l (1 − μ_l) z_l(i)``, with a μ_l that rises where axis l is beyond
    its set point: ``μ_l ← clip(μ_l + rate · ((mean_l − start_l)/spread_l − set_point), 0, bound)``.

    At μ = 1 an axis is no longer pursued; above, it is taken back. The mean is over all responses
    of an iteration, and so is the first one's, with its spread. An axis without spread is free.

    Attributes:
        set_point: by how many spreads of the starting policy the mean reward may rise.
        rate: of μ, per iteration and spread.
        bound: the greatest μ; 1: an axis is never taken back.
        epsilon: added to every std.
    """

    set_point: float = 2.0
    rate: float = 0.1
    bound: float = 2.0
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        require_epsilon(self.epsilon)
        point, rate, bound = self.set_point, self.rate, self.bound
        require_range(f"{KEY}.set_point", point > 0, point, "a number of spreads > 0")
        require_range(f"{KEY}.rate", rate > 0, rate, "a number > 0")
        require_range(f"{KEY}.bound", bound >= 1, bound, "a number >= 1")

    def __call__(self, groups: ScoredGroups, state: State, all_reduce: AllReduce) -> Advantages:
        """Return the advantages under the multipliers as they stand after this iteration's means.

        Raises:
            ValueError: the source compares responses only, and so has no mean that could rise.
        """
        rewards = absolute_rewards(groups.vectors, "algorithm/advantage=constrained")
        state = self.moved(rewards, state, all_reduce)
        scores = groups.scores()
        z_scores = normalize_axes(scores, "per_axis", epsilon=self.epsilon)
        weights = groups.weights() * (1 - state["multiplier"]).to(groups.eigenvalues)
        advantages = (z_scores * weights[:, None]).sum(-1)
        return Advantages(scores, z_scores, advantages, state)

    def moved(
        self, rewards: Float[Tensor, "groups size axes"], state: State, all_reduce: AllReduce
    ) -> State:
        """Return the state after one iteration: μ, and the start's mean and spread of each axis."""
        flat = rewards.flatten(0, 1).double()
        count = torch.full_like(flat[:1, 0], len(flat))
        sums = all_reduce(torch.cat([flat.sum(0), flat.square().sum(0), count]))
        axes, total = flat.shape[1], sums[-1]
        mean = sums[:axes] / total
        spread = (sums[axes : 2 * axes] / total - mean.square()).clamp(min=0).sqrt()
        start, unit = state.get("start", mean), state.get("unit", spread)
        before = state.get("multiplier", torch.zeros_like(mean))
        gain = torch.where(unit > 0, (mean - start) / unit, 0.0)
        after = (before + self.rate * (gain - self.set_point)).clamp(0, self.bound)
        # A NaN would stay for ever; in the scores it ends as a skipped step.
        kept = torch.where(gain.isfinite(), after, before)
        return {"start": start, "unit": unit, "multiplier": kept}
