"""The baselines' losses and rules once more, in float64 and plain loops, from the papers.

Everything is a float or a nested list: a pair is four log-probabilities and two lengths, a group
of responses a square table of logits. Nothing of the package is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]
Grid = Sequence[Sequence[float]]


def log_sigmoid(x: float) -> float:
    """log of 1 / (1 + e^-x), whichever way it does not overflow."""
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return math.exp(log_sigmoid(x))


# ---- pairs --------------------------------------------------------------------------------------


def dpo(logprobs: Row, reference: Row, label: float, beta: float, smoothing: float) -> float:
    """The cross-entropy of the smoothed label with σ(β((log π_w/π_ref,w) − (log π_l/π_ref,l)))."""
    won, lost = logprobs[0] - reference[0], logprobs[1] - reference[1]
    reward = beta * won - beta * lost
    right = label * (1 - smoothing) + (1 - label) * smoothing
    return -(right * log_sigmoid(reward) + (1 - right) * log_sigmoid(-reward))


def ipo(
    logprobs: Row, reference: Row, lengths: Row, label: float, beta: float, per_token: bool
) -> float:
    """(h − 1/(2β))² of the winner over the loser, weighted with the other way round."""
    ratios = [logprobs[i] - reference[i] for i in (0, 1)]
    if per_token:
        ratios = [ratio / length for ratio, length in zip(ratios, lengths, strict=True)]
    ahead, goal = ratios[0] - ratios[1], 1 / (2 * beta)
    return label * (ahead - goal) ** 2 + (1 - label) * (-ahead - goal) ** 2


def simpo(
    logprobs: Row, lengths: Row, label: float, beta: float, ratio: float, smoothing: float
) -> float:
    """−log σ(β/|y_w| log π(y_w) − β/|y_l| log π(y_l) − γ), with γ = β · ratio."""
    gamma = beta * ratio
    reward = beta / lengths[0] * logprobs[0] - beta / lengths[1] * logprobs[1] - gamma
    right = label * (1 - smoothing) + (1 - label) * smoothing
    return -(right * log_sigmoid(reward) + (1 - right) * log_sigmoid(-reward))


# ---- groups -------------------------------------------------------------------------------------


def sppo_targets(logits: Grid, beta: float) -> list[float]:
    """(P(y_i > π) − ½) / β, P the mean of σ(s/τ) over the group, with P(y_i > y_i) = ½."""
    size = len(logits)
    chances = [sum(sigmoid(logits[i][j]) for j in range(size)) / size for i in range(size)]
    return [(chance - 0.5) / beta for chance in chances]


def sppo_hard_targets(logits: Grid, beta: float) -> list[float]:
    """½/β for the best response, −½/β for the worst, 0 for the others and where all are level."""
    soft = sppo_targets(logits, 1.0)
    best, worst = best_and_worst(soft)
    if soft[best] == soft[worst]:
        return [0.0] * len(soft)
    return [
        0.5 / beta if i == best else -0.5 / beta if i == worst else 0.0 for i in range(len(soft))
    ]


def gpo_targets(logits: Grid, beta: float) -> list[float]:
    """The mean of s(y_i > y_j)/τ over the group, divided by β."""
    size = len(logits)
    return [sum(row) / size / beta for row in logits]


def best_and_worst(quality: Row) -> tuple[int, int]:
    """The first of the highest, the last of the lowest."""
    best = worst = 0
    for i, value in enumerate(quality):
        if value > quality[best]:
            best = i
        if value <= quality[worst]:
            worst = i
    return best, worst
