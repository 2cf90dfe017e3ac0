"""The law of the drift controller: the next multipliers and KL coefficient.

Source: GPRL, arXiv 2605.18721, for the shape (multipliers against the drift, a higher KL
coefficient, an exponential return); the formulas are ours, after Ziegler et al. (arXiv
1909.08593) for the KL coefficient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gprl_lightning.core.drift_state import DriftSettings, Floats, Intervention

KL_STEP = 0.2  # the drift's relative excess over its threshold counts up to this (Ziegler)
REST_TOLERANCE = 1e-6  # an exponential return never arrives: this near, the control is at rest


def with_outcome(record: Intervention, settings: DriftSettings) -> Intervention:
    """Return the record with its "after", computed from its "before" and its evidence alone."""
    multipliers, kl_coef = record.multipliers_before, record.kl_coef_before
    if record.action == "return":
        multipliers, kl_coef = _returned(multipliers, kl_coef, settings)
    else:
        if settings.mode in ("full", "reweight_only"):
            multipliers = _reweighted(record, settings)
        if settings.mode in ("full", "kl_only"):
            excess = (record.drift - record.threshold) / record.threshold
            kl_coef *= 1 + settings.kl_gain * min(max(excess, -KL_STEP), KL_STEP)
            lowest, highest = settings.kl_coef, settings.kl_bound * settings.kl_coef
            kl_coef = min(max(kl_coef, lowest), highest)
    return replace(record, multipliers_after=multipliers, kl_coef_after=kl_coef)


def _returned(multipliers: Floats, kl_coef: float, settings: DriftSettings) -> tuple[Floats, float]:
    """``m ← 1 + ρ(m - 1)`` and ``β ← β₀ + ρ(β - β₀)``; at rest once within 1e-6 of it (ours)."""
    rate, rest = settings.return_rate, settings.kl_coef
    multipliers = tuple(1 + rate * (m - 1) for m in multipliers)
    kl_coef = rest + rate * (kl_coef - rest)
    near = all(abs(m - 1) <= REST_TOLERANCE for m in multipliers)
    if near and abs(kl_coef - rest) <= REST_TOLERANCE * rest:
        return (1.0,) * len(multipliers), rest
    return multipliers, kl_coef


def _reweighted(record: Intervention, settings: DriftSettings) -> Floats:
    """``m_l ← clip(m_l · (α_l(0)/α_l(t))^η, 1/bound, bound)``, then ``Σ m = k``.

    Making them sum to k can carry a multiplier out of its bounds, so the common factor is the one
    that gives the sum after clipping (ours). A guarded axis, whose factor is capped at 1, keeps
    its multiplier, and the others share the rest: else the common factor would push it up all the
    same.
    """
    if settings.reweight == "down":
        return _lowered(record, settings)
    bound, rate = settings.multiplier_bound, settings.reweight_rate
    rows = zip(
        record.multipliers_before, record.reference_share, record.variance_share, strict=True
    )
    moved = [_clip(m * (before / now) ** rate, bound) for m, before, now in rows]
    pairs = list(zip(record.multipliers_before, record.guarded, strict=True))
    target = float(len(pairs)) - sum(m for m, guarded in pairs if guarded)
    free = [m for m, (_, guarded) in zip(moved, pairs, strict=True) if not guarded]
    scaled = iter(_scaled_to(target, free, bound))
    return tuple(m if guarded else next(scaled) for m, guarded in pairs)


def _lowered(record: Intervention, settings: DriftSettings) -> Floats:
    """``m_l ← clip(m_l · min(1, (α_l(0)/α_l(t))^η), 1/bound, 1)``: none rises above 1. Ours.

    Where axes saturate, `_reweighted` raises the spent ones and sinks the others. Here an axis only
    loses weight, by its own share's rise; it comes back by the exponential return. A guarded axis
    has lost share, so it stays.
    """
    rows = zip(
        record.multipliers_before, record.reference_share, record.variance_share, strict=True
    )
    factors = [(m, min(1.0, (before / now) ** settings.reweight_rate)) for m, before, now in rows]
    return tuple(max(m * factor, 1 / settings.multiplier_bound) for m, factor in factors)


def _clip(multiplier: float, bound: float) -> float:
    return min(max(multiplier, 1 / bound), bound)


def _scaled_to(target: float, values: Sequence[float], bound: float) -> list[float]:
    """Values times one factor, clipped to [1/bound, bound], that sum to ``target``."""
    factor = target / sum(values)
    scaled = [factor * value for value in values]
    if [_clip(value, bound) for value in scaled] == scaled:
        return scaled
    low, high = 1 / bound**2, bound**2
    while low < (middle := (low + high) / 2) < high:
        total = sum(_clip(middle * value, bound) for value in values)
        low, high = (middle, high) if total < target else (low, middle)
    return [_clip(high * value, bound) for value in values]
