"""From Arena-Hard's labels to a win rate, its bootstrap and its style control.

A label is worth one battle, or three if it says "significantly". v0.1 is scored as its leaderboard
was (Bradley-Terry by maximum likelihood, 95 % interval), v2 as its script does (the mean of a
bootstrap, 90 % interval). With one model against one baseline, the maximum-likelihood win rate of
Bradley-Terry is the mean of the battles; the tests check it against the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gprl_lightning.benchmarks.markdown_style import Style

Rate = tuple[float, float, float]  # value, low, high, in percent
Rows = NDArray[np.float64]

WEIGHT = 3  # battles that a "significantly" is worth
ROUNDS = 100
# For the answer that stands as A: (score, battles).
LABEL_SCORES = {
    "A>>B": (1.0, WEIGHT), "A>B": (1.0, 1), "A=B": (0.5, 1), "A<B": (0.0, 1), "A<<B": (0.0, WEIGHT),
    "B>>A": (0.0, WEIGHT), "B>A": (0.0, 1), "B=A": (0.5, 1), "B<A": (1.0, 1), "B<<A": (1.0, WEIGHT),
}  # fmt: skip


@dataclass(frozen=True)
class StyledBattles:
    """One model's battles: each question's scores, and the (model's, baseline's) style."""

    scores: Sequence[Sequence[float]]
    styles: Sequence[tuple[Style, Style]]


def first_wins(label: str | None) -> float:
    """Return the score of the answer that stood as A: 1, 0.5 or 0."""
    return LABEL_SCORES[str(label)][0]


def battles(baseline_first: str, model_first: str) -> list[float]:
    """Return the model's scores of one question: a score for each battle of both games."""
    score, count = LABEL_SCORES[model_first]
    other, others = LABEL_SCORES[baseline_first]
    return [score] * count + [1 - other] * others


def win_rate_v2(questions: Sequence[Sequence[float]], seed: int = 0) -> Rate:
    """Return mean and 5 % and 95 % quantiles of the bootstrap over battles (`show_result.py`)."""
    means = _bootstrap_means(np.concatenate([np.asarray(q, float) for q in questions]), seed)
    return _percent(means.mean(), *np.quantile(means, [0.05, 0.95]))


def win_rate_v0_1(questions: Sequence[Sequence[float]], seed: int = 0) -> Rate:
    """Return the Bradley-Terry win rate and its 95 % bootstrap interval over battles."""
    values = np.concatenate([np.asarray(q, float) for q in questions])
    means = _bootstrap_means(values, seed)
    return _percent(values.mean(), *np.quantile(means, [0.025, 0.975]))


def _bootstrap_means(values: Rows, seed: int) -> Rows:
    draws = np.random.default_rng(seed).integers(0, len(values), (ROUNDS, len(values)))
    return values[draws].mean(1)


def _percent(value: float, low: float, high: float) -> Rate:
    return 100 * float(value), 100 * float(low), 100 * float(high)


def style_control_v2(
    own: StyledBattles, others: Sequence[StyledBattles] = (), seed: int = 0
) -> Rate:
    """Return the win rate at equal style: median and 5 % and 95 % quantiles of the bootstrap.

    Features are the relative difference in length, and the differences in the density of headers,
    lists and bold text; each is standardised over the battles. No regularisation.

    Args:
        own: the model's battles.
        others: other models' battles against the same baseline, fitted together with it.
        seed: of the bootstrap.
    """
    members, outcomes, rows = _per_battle([own, *others], _densities)
    design = np.column_stack([members, _standardised(rows, ddof=1)])

    def rate(index: NDArray[np.int64]) -> float:
        return _sigmoid(fit_logistic(design[index], outcomes[index], 0.0)[0])

    rates = _bootstrap(rate, len(rows), seed)
    return _percent(*np.quantile(rates, [0.5, 0.05, 0.95]))


def style_control_v0_1(
    own: StyledBattles, others: Sequence[StyledBattles] = (), seed: int = 0
) -> Rate:
    """Return the win rate at equal style, with its 95 % bootstrap interval.

    As v0.1's script has it: ratings in units of log 10, relative differences of counts, each battle
    counted twice, and a ridge of 1 on all coefficients, ratings included. Arguments as for v2.
    """
    members, outcomes, rows = _per_battle([own, *others], _relative)
    ratings = np.log(10) * np.column_stack([members, -np.ones(len(rows))])
    design = np.column_stack([ratings, _standardised(rows, ddof=0)])
    baseline = members.shape[1]

    def rate(index: NDArray[np.int64]) -> float:
        fitted = fit_logistic(
            np.repeat(design[index], 2, 0), np.repeat(outcomes[index], 2), ridge=1.0
        )
        return _sigmoid(np.log(10) * (fitted[0] - fitted[baseline]))

    rates = _bootstrap(rate, len(rows), seed)
    return _percent(rate(np.arange(len(rows))), *np.quantile(rates, [0.025, 0.975]))


def _per_battle(
    groups: Sequence[StyledBattles], features: Callable[[Style, Style], list[float]]
) -> tuple[Rows, Rows, Rows]:
    """Return, for each battle, whose it is (one column for each model), its score, its features."""
    members, outcomes, rows = [], [], []
    for place, group in enumerate(groups):
        for scores, pair in zip(group.scores, group.styles, strict=True):
            for score in scores:
                members.append([float(place == other) for other in range(len(groups))])
                outcomes.append(score)
                rows.append(features(*pair))
    return np.array(members), np.array(outcomes), np.array(rows)


def _standardised(rows: Rows, ddof: int) -> Rows:
    spread = rows.std(0, ddof=ddof)
    return (rows - rows.mean(0)) / np.where(spread > 0, spread, 1)


def _bootstrap(rate: Callable[[NDArray[np.int64]], float], size: int, seed: int) -> Rows:
    draws = np.random.default_rng(seed).integers(0, size, (ROUNDS, size))
    return np.array([rate(index) for index in draws])


def _densities(model: Style, baseline: Style) -> list[float]:
    """Return v2's four features: length, headers, lists, bold. An empty answer has density 0."""
    total = model.tokens + baseline.tokens
    found = [(model.tokens - baseline.tokens) / total if total else 0.0]
    for mine, other in zip(model.marks, baseline.marks, strict=True):
        a, b = mine / max(model.tokens, 1), other / max(baseline.tokens, 1)
        found.append((a - b) / (a + b + 1))
    return found


def _relative(model: Style, baseline: Style) -> list[float]:
    """Return v0.1's four features: relative differences of the counts."""
    pairs = zip((model.tokens, *model.marks), (baseline.tokens, *baseline.marks), strict=True)
    return [(a - b) / (a + b + 1) for a, b in pairs]


def fit_logistic(design: Rows, outcomes: Rows, ridge: float, steps: int = 50) -> Rows:
    """Return the coefficients that minimise log-loss + ridge / 2 · ‖w‖², by Newton's method.

    Args:
        design: rows of features; there is no intercept besides.
        outcomes: of each row, in [0, 1]; a tie is 0.5.
        ridge: 0 is maximum likelihood. Coefficients of a separable problem grow until `steps` end.
    """
    weights = np.zeros(design.shape[1])
    for _ in range(steps):
        predicted = _sigmoids(design @ weights)
        gradient = design.T @ (predicted - outcomes) + ridge * weights
        curvature = (design * (predicted * (1 - predicted))[:, None]).T @ design
        # A trace of damping keeps a direction without data (a constant feature) solvable.
        damping = (ridge + 1e-9) * np.eye(len(weights))
        step = np.linalg.solve(curvature + damping, gradient)
        weights = weights - np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-10:
            break
    return weights


def _sigmoids(logits: Rows) -> Rows:
    return 0.5 * (1 + np.tanh(logits / 2))


def _sigmoid(logit: float) -> float:
    return float(0.5 * (1 + np.tanh(logit / 2)))
