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


def square(logprobs: Row, reference: Row, gains: Row, beta: float, hard: bool) -> float:
    """½ Σ (log π/π_t − gain/β)²; hard: gain ½ for the one that gained more, −½ for the other."""
    if hard:
        lead = gains[0] - gains[1]
        gains = (0.0, 0.0) if lead == 0 else (0.5, -0.5) if lead > 0 else (-0.5, 0.5)
    return sum((logprobs[i] - reference[i] - gains[i] / beta) ** 2 for i in (0, 1)) / 2


# ---- groups -------------------------------------------------------------------------------------


def win_gains(logits: Grid) -> list[float]:
    """P(y_i > π) − ½, P the mean of σ(s/τ) over the group, with P(y_i > y_i) = ½."""
    size = len(logits)
    return [sum(sigmoid(logits[i][j]) for j in range(size)) / size - 0.5 for i in range(size)]


def score_gains(logits: Grid) -> list[float]:
    """The mean of s(y_i > y_j)/τ over the group."""
    return [sum(row) / len(logits) for row in logits]


def best_and_worst(quality: Row) -> tuple[int, int]:
    """The first of the highest, the last of the lowest."""
    best = worst = 0
    for i, value in enumerate(quality):
        if value > quality[best]:
            best = i
        if value <= quality[worst]:
            worst = i
    return best, worst


# ---- advantage rules ----------------------------------------------------------------------------

Table = Sequence[Sequence[Sequence[float]]]  # [i][j][axis]


def mean(values: Row) -> float:
    return math.fsum(values) / len(values)


def spread(values: Row) -> float:
    return math.sqrt(mean([(value - mean(values)) ** 2 for value in values]))


def mean_scores(pairs: Table) -> list[list[float]]:
    """The mean score of each response against the others, by axis."""
    size, axes = len(pairs), len(pairs[0][0])
    return [
        [sum(pairs[i][j][a] for j in range(size) if j != i) / (size - 1) for a in range(axes)]
        for i in range(size)
    ]


def lampo(pairs: Table, weights: Row, confidence: Row, temperature: float, epsilon: float) -> Row:
    """Each gap times the σ of by how much the policy prefers the loser, over the group's std."""
    gains = []
    for i in range(len(pairs)):
        gain = 0.0
        for j in range(len(pairs)):
            gap = sum(weight * score for weight, score in zip(weights, pairs[i][j], strict=True))
            if gap == 0:
                continue
            winner, loser = (i, j) if gap > 0 else (j, i)
            gain += sigmoid((confidence[loser] - confidence[winner]) / temperature) * gap
        gains.append(gain / (len(pairs) - 1))
    return [gain / (spread(gains) + epsilon) for gain in gains]


def vpo(rewards: Grid, weightings: Grid, epsilon: float) -> list[float]:
    """The best of the group less the best of the rest, meaned over weightings, z-scored."""
    worth = []
    for i in range(len(rewards)):
        gains = []
        for weighting in weightings:
            value = [sum(w * r for w, r in zip(weighting, row, strict=True)) for row in rewards]
            gains.append(max(value) - max(v for j, v in enumerate(value) if j != i))
        worth.append(mean(gains))
    return [(value - mean(worth)) / (spread(worth) + epsilon) for value in worth]


def reinforce_pp(rewards: Grid, epsilon: float) -> list[list[float]]:
    """[group][response] less the mean of all of them, over the std of all of them."""
    flat = [reward for row in rewards for reward in row]
    return [[(r - mean(flat)) / (spread(flat) + epsilon) for r in row] for row in rewards]
