"""What a response gains in the game against its group, and which responses are best and worst.

For methods that learn from pairs: the best and the worst response of a group are the pair, and
their gains are what SPPO and GPO regress log-ratios on (`core.square_loss`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gprl_lightning.core.advantage_rule import Advantages, AllReduce, ScoredGroups, State
from gprl_lightning.core.preference import total_scores

Gain = Literal["probability", "score"]


@dataclass(frozen=True)
class GameGains:
    """Return the gains of a group in the place of advantages: a rule, so that a log shows them.

    The pair of a group is its best and its worst response by them. By axis, for the log: the mean
    of ``λ_l s_l / τ`` over the group; with ``gain=score`` these sum to the gain. Ours.

    Attributes:
        gain: ``probability``: `win_gains` (SPPO; also the ranking of DPO and its kin); ``score``:
            `score_gains` (GPO).
    """

    gain: Gain = "probability"

    def __call__(self, groups: ScoredGroups, state: State, all_reduce: AllReduce) -> Advantages:
        """Return the gains; ``state`` is passed on as it is."""
        weights, pairs = groups.weights(), groups.pairs()
        gains = game_gains(total_scores(pairs, weights[:, None, None]) / groups.tau, self.gain)
        by_axis = (pairs * weights[:, None, None]).mean(2) / groups.tau
        return Advantages(groups.scores(), by_axis, gains, state)


def game_gains(
    logits: Float[Tensor, "groups size size"], gain: Gain
) -> Float[Tensor, "groups size"]:
    """Return the gains of ``win_gains`` (probability: SPPO) or ``score_gains`` (score: GPO)."""
    return win_gains(logits) if gain == "probability" else score_gains(logits)


def win_gains(logits: Float[Tensor, "groups size size"]) -> Float[Tensor, "groups size"]:
    """Return ``P(y ≻ π_t) − ½`` of each response; the gains of a group sum to 0.

    Source: SPPO, arXiv 2405.00675, algorithm 1. As in the authors' code, P is the mean over all
    responses of the group, the response itself (½) included.

    Args:
        logits: ``s(i ≻ j) / τ``, skew-symmetric; σ of it is the chance that i beats j.
    """
    # tanh is odd to the bit, so that ties and sums to 0 stay exact where 1 − σ would round.
    return (torch.tanh(logits / 2) / 2).mean(2)


def score_gains(logits: Float[Tensor, "groups size size"]) -> Float[Tensor, "groups size"]:
    """Return ``s(y ≻ π_t) / τ`` of each response; the gains of a group sum to 0.

    Source: General Preference Optimization, arXiv 2410.02197, section 5, and the authors' public
    scripts (β = 1e-3, five responses, best against worst by mean score). Their trainer was never
    published. Our reading: the score is the logit s/τ, taken once (their table, less its own
    transpose, holds it twice); its mean is over the whole group; and the log of the partition
    function, for which SPPO puts the mean of P, ½, is likewise the mean of the scores, which is 0
    by skew symmetry.
    """
    return logits.mean(2)


def best_and_worst(gains: Float[Tensor, "groups size"]) -> Int[Tensor, "groups 2"]:
    """Return the places of the best and of the worst response of each group; needs size >= 2.

    They are never the same one: among equals the first is the best and the last the worst (ours).
    """
    best = gains.argmax(1)
    worst = gains.shape[1] - 1 - gains.flip(1).argmin(1)
    return torch.stack([best, worst], 1)
