"""Win rates with intervals, and a win rate at equal length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gprl_lightning.errors import NotFinite


class WinRate(NamedTuple):
    """A mean over comparisons and its 95 % bootstrap interval; all in [0, 1]."""

    mean: float
    low: float
    high: float


def win_rate(outcomes: Sequence[float], resamples: int = 2000, seed: int = 0) -> WinRate:
    """Return the mean of outcomes (1 won, 0.5 tied, 0 lost), with a percentile bootstrap over
    comparisons.

    Raises:
        ValueError: no outcomes.
        NotFinite: an outcome is no number.
    """
    if not len(outcomes):
        raise ValueError("win_rate: expected at least one comparison, found none.")
    values = np.asarray(outcomes, dtype=float)
    if not np.isfinite(values).all():
        raise NotFinite(
            "evaluation.judge: expected 1, 0 or 0.5 for every comparison; found NaN or Inf in "
            f"{int((~np.isfinite(values)).sum())} of {len(values)}. Choose a judge whose weights "
            "are sound."
        )
    draws = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return WinRate(float(values.mean()), float(low), float(high))


def length_controlled_win_rate(
    outcomes: Sequence[float], lengths: Sequence[int], baseline_lengths: Sequence[int]
) -> float:
    """Return the win rate that a logistic model predicts at equal length (after AlpacaEval 2.0).

    Fits ``logit P(win) = a + b · tanh(d / std(d))`` with d the difference in length, by Newton's
    method with a small ridge on b; returns ``sigmoid(a)``. AlpacaEval's terms for the model and the
    prompt have no counterpart here: there is one model and one answer per prompt.
    """
    difference = np.asarray(lengths, dtype=float) - np.asarray(baseline_lengths, dtype=float)
    spread = difference.std()
    feature = np.tanh(difference / spread) if spread > 0 else np.zeros_like(difference)
    design = np.stack([np.ones_like(feature), feature], 1)
    # Half a win and half a loss more keep the fit finite when every comparison is won.
    design = np.concatenate([design, [[1.0, 0.0]]])
    wins = np.concatenate([np.asarray(outcomes, dtype=float), [0.5]])
    ridge = np.diag([0.0, 1e-3])
    weights = np.zeros(2)
    for _ in range(50):
        predicted = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (wins - predicted) - ridge @ weights
        hessian = (design * (predicted * (1 - predicted))[:, None]).T @ design + ridge
        step = np.linalg.solve(hessian, gradient)
        weights = np.clip(weights + step, -20, 20)
        if np.abs(step).max() < 1e-10:
            break
    return float(1 / (1 + np.exp(-weights[0])))
