"""Runs of the laboratory whose true gold is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gprl_lightning.study.laboratory_plan import (
    ACCURACY,
    ARMS,
    GOLD,
    LOG_GATE_SPREAD,
    MODELS,
    VERDICT_SEEDS,
)
from gprl_lightning.study.laboratory_records import AXIS_CORRELATION, Kept, Label
from gprl_lightning.tracking import metrics

# Every hypothesis as registered: true gold at the horizon.
AS_EXPECTED = {
    "bt_best": 0.60, "full_best": 0.75, "bt_firm": 0.75, "firm": 0.76,
    "clean_scalar": 0.95, "clean_per_axis": 0.80, "clean_floored": 0.93, "clean_beta3": 0.82,
    "clean_beta10": 0.80, "clean_full": 0.62, "clean_downward": 0.93,
    "hackable_scalar": 0.60, "hackable_scalar_best": 0.78, "hackable_scalar_clipped": 0.90,
    "hackable_scalar_firm": 0.92, "hackable_per_axis": 0.78, "hackable_full": 0.60,
    "hackable_full_twice": 0.76, "plain_full": 0.6, "mo_grpo": 0.55, "mentions_scalar": 0.6,
    "mentions_per_axis": 0.6, "learned_scalar": 0.5, "learned_per_axis": 0.6,
    "blind_scalar": 0.5, "blind_per_axis": 0.65,
}  # fmt: skip
MODELS_AS_EXPECTED = {
    "model_plain": {ACCURACY: 0.82, LOG_GATE_SPREAD: np.log(0.04), AXIS_CORRELATION: 0.6},
    "model_answer_only": {ACCURACY: 0.825, LOG_GATE_SPREAD: np.log(0.16), AXIS_CORRELATION: 0.2},
}


def run(arm: str, seed: int, gold: float, beta: float | None = None, kl_coef: float = 0.1) -> Kept:
    """A run that rises to its gold and stays."""
    steps = np.arange(0, 81, 10)
    curve = 0.5 + (gold - 0.5) * np.minimum(steps / 60, 1)
    return Kept(
        label=Label(arm, seed, beta),
        commit="0123456789abcdef",
        settings={"algorithm.kl_coef": kl_coef if beta is None else beta},
        cpu_minutes=1.5,
        measures={GOLD: gold},
        iterations=steps.tolist(),
        curves={
            metrics.EVAL_WIN_RATE: curve.tolist(),
            metrics.EVAL_WIN_RATE_EVEN: (curve + 0.01).tolist(),
            metrics.EVAL_WIN_RATE_ODD: (curve - 0.01).tolist(),
            metrics.EVAL_KL: (steps / 4.0).tolist(),
            metrics.EVAL_RESPONSE_LENGTH: [14.0] * len(steps),
        },
        by_task={"praise": gold, "review": gold},
        multipliers=[1.0, 0.5] if "full" in arm else [],
        kl_coef=0.1,
    )


def model(arm: str, seed: int, measures: Mapping[str, float]) -> Kept:
    return Kept(Label(arm, seed), "0123456789abcdef", {}, 1.2, dict(measures))


def study(
    rng: np.random.Generator,
    gold: Mapping[str, float] = AS_EXPECTED,
    models: Mapping[str, Mapping[str, float]] = MODELS_AS_EXPECTED,
    seeds: tuple[int, ...] = VERDICT_SEEDS,
    spread: float = 0.03,
) -> list[Kept]:
    """Every arm on these seeds, each run off its truth by ``spread``."""
    kept = [run(arm, s, true + rng.normal(0, spread)) for arm, true in gold.items() for s in seeds]
    for arm, values in models.items():
        for seed in seeds:
            moved = {name: value + rng.normal(0, 0.005) for name, value in values.items()}
            kept.append(model(arm, seed, moved))
    assert {one.label.arm for one in kept} <= set(ARMS)
    assert all((ARMS[one.label.arm].world == MODELS) == (not one.curves) for one in kept)
    return kept
