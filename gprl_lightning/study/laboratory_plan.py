"""What the laboratory has registered before its first verdict run: arms, seeds, hypotheses. Ours.

docs/preregistration.md says the same in words. An arm is a file of ``conf/ablation/laboratory``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gprl_lightning.study.verdicts import MARGIN

TUNING_SEEDS = tuple(range(5))
VERDICT_SEEDS = tuple(range(100, 120))
BETAS = (0.01, 0.03, 0.1, 0.3, 1.0)

World = Literal[
    "learned axes",
    "learned axes: remedies of others",
    "given axes, clean",
    "given axes, one hackable",
    "models",
]
LEARNED: World = "learned axes"
REMEDIES: World = "learned axes: remedies of others"
CLEAN: World = "given axes, clean"
HACKABLE: World = "given axes, one hackable"
MODELS: World = "models"


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        world: that it lives in.
        name: on the page.
        tuned: the arm whose runs at five β, on tuning seeds, choose this one's β; empty if it has
            its β from the start.
        explores: True if no hypothesis asks for it.
    """

    world: World
    name: str
    tuned: str = ""
    explores: bool = False


ARMS: Mapping[str, Arm] = {
    "bt_best": Arm(LEARNED, "GRPO + BT, best fixed β", tuned="bt"),
    "full_best": Arm(LEARNED, "GPRL, full (the paper's)", tuned="full"),
    "bt_firm": Arm(LEARNED, "GRPO + BT, firm surprise"),
    "firm": Arm(LEARNED, "GPRL, firm surprise"),
    "model_answer_only": Arm(MODELS, "values of the answer only"),
    "model_plain": Arm(MODELS, "values of prompt and answer"),
    "clean_scalar": Arm(CLEAN, "one z-score"),
    "clean_per_axis": Arm(CLEAN, "per axis"),
    "clean_floored": Arm(CLEAN, "per axis, floor ½"),
    "clean_beta3": Arm(CLEAN, "per axis, β × 3"),
    "clean_beta10": Arm(CLEAN, "per axis, β × 10"),
    "clean_full": Arm(CLEAN, "per axis, the paper's monitor"),
    "clean_downward": Arm(CLEAN, "per axis, floor ½, m only down"),
    "hackable_scalar": Arm(HACKABLE, "one z-score"),
    "hackable_scalar_best": Arm(HACKABLE, "one z-score, best fixed β", tuned="hackable_scalar"),
    "hackable_scalar_clipped": Arm(HACKABLE, "one z-score, clipped functions"),
    "hackable_scalar_firm": Arm(HACKABLE, "one z-score, firm surprise"),
    "hackable_per_axis": Arm(HACKABLE, "per axis"),
    "hackable_full": Arm(HACKABLE, "per axis, the paper's monitor, β to × 10"),
    "hackable_full_twice": Arm(HACKABLE, "per axis, the paper's monitor, β to × 2"),
    "learned_scalar": Arm(LEARNED, "GRPO + GPM, one z-score", explores=True),
    "learned_per_axis": Arm(LEARNED, "GPRL, no monitor", explores=True),
    "plain_full": Arm(LEARNED, "GPRL, full, on a plain GPM", tuned="full", explores=True),
    "plain_scalar": Arm(LEARNED, "GRPO + plain GPM, one z-score", explores=True),
    "plain_per_axis": Arm(LEARNED, "GPRL on a plain GPM, no monitor", explores=True),
    "bt_ensemble_minimum": Arm(REMEDIES, "GRPO + least of 3 BT", tuned="bt", explores=True),
    "bt_ensemble_std": Arm(REMEDIES, "GRPO + 3 BT, mean − std", tuned="bt", explores=True),
    "bt_chi2": Arm(REMEDIES, "GRPO + BT, √χ² for KL", explores=True),
    "bt_constrained": Arm(REMEDIES, "BT to a set point", explores=True),
    "mo_grpo": Arm(REMEDIES, "MO-GRPO", tuned="full", explores=True),
    "gdpo": Arm(REMEDIES, "GDPO", tuned="full", explores=True),
    "max_min": Arm(REMEDIES, "worst of the axes", tuned="full", explores=True),
    "mentions_scalar": Arm(HACKABLE, "mentions: one z-score", explores=True),
    "mentions_per_axis": Arm(HACKABLE, "mentions: per axis", explores=True),
    "blind_scalar": Arm(HACKABLE, "one z-score, λ blind", explores=True),
    "blind_per_axis": Arm(HACKABLE, "per axis, λ blind", explores=True),
}
TUNED = {word: arm.tuned for word, arm in ARMS.items() if arm.tuned}
# The tuning seeds on which β was chosen, by the arm that was tuned; none as long as it is not.
CHOSEN_ON: Mapping[str, tuple[int, ...]] = {arm: TUNING_SEEDS for arm in TUNED.values()}

Expected = Literal["better", "worse", "not worse", "not better"]
GOLD, ACCURACY, LOG_GATE_SPREAD = "gold", "accuracy", "log gate spread"


@dataclass(frozen=True)
class Contrast:
    """A sum of arms, weighted, seed by seed.

    Attributes:
        says: what is claimed, in words.
        weights: by arm; they add up to 0.
        expected: *better* and *worse* as `verdicts.judge` has them; *not worse*: Student's interval
            lies above ``−margin``; *not better*: below ``margin``.
        margin: of gold win rate or of accuracy.
        measure: what is summed.
        less: what the sum has to exceed.
    """

    says: str
    weights: Mapping[str, float]
    expected: Expected = "better"
    margin: float = MARGIN
    measure: str = GOLD
    less: float = 0.0


def _minus(arm: str, other: str) -> dict[str, float]:
    return {arm: 1.0, other: -1.0}


PRIMARY = Contrast(
    "GPRL, full, ends higher than GRPO + BT at its best fixed β", _minus("full_best", "bt_best")
)
LOG_THREE = 1.0986122886681098
HYPOTHESES: Mapping[str, tuple[Contrast, ...]] = {
    "H1": (
        Contrast(
            "clean axes: per axis is worse than one z-score",
            _minus("clean_per_axis", "clean_scalar"),
            "worse",
        ),
        Contrast(
            "the floor removes at least two thirds of the loss",
            {"clean_floored": 1.0, "clean_per_axis": -1 / 3, "clean_scalar": -2 / 3},
            "not worse",
            margin=0.0,
        ),
        Contrast(
            "the floor does more than a β three times as large",
            _minus("clean_floored", "clean_beta3"),
        ),
        Contrast(
            "the floor does more than a β ten times as large",
            _minus("clean_floored", "clean_beta10"),
        ),
    ),
    "H2": (
        Contrast(
            "a hackable axis: per axis is better than one z-score at the same β",
            _minus("hackable_per_axis", "hackable_scalar"),
        ),
        Contrast(
            "per axis is no better than one z-score at its best β",
            _minus("hackable_per_axis", "hackable_scalar_best"),
            "not better",
        ),
        Contrast(
            "per axis is no better than one z-score on clipped functions",
            _minus("hackable_per_axis", "hackable_scalar_clipped"),
            "not better",
        ),
    ),
    "H3": (
        Contrast(
            "clean axes: the paper's monitor harms",
            _minus("clean_full", "clean_per_axis"),
            "worse",
        ),
        Contrast(
            "multipliers that only go down, with the floor, do no harm",
            _minus("clean_downward", "clean_floored"),
            "not worse",
        ),
    ),
    "H4": (
        Contrast(
            "a hackable axis: β at most twice its start ends higher than ten times",
            _minus("hackable_full_twice", "hackable_full"),
        ),
    ),
    "H5": (
        Contrast(
            "no axes: firm surprise on GRPO + BT beats the best fixed β",
            _minus("bt_firm", "bt_best"),
        ),
        Contrast(
            "learned axes: firm surprise on GPRL beats the best fixed β of GRPO + BT",
            _minus("firm", "bt_best"),
        ),
        Contrast(
            "given axes, one hackable: firm surprise beats one z-score's best fixed β",
            _minus("hackable_scalar_firm", "hackable_scalar_best"),
        ),
    ),
    "H6": (
        Contrast(
            "values of the answer only triple the gate's spread at least",
            _minus("model_answer_only", "model_plain"),
            "not worse",
            margin=0.0,
            measure=LOG_GATE_SPREAD,
            less=LOG_THREE,
        ),
        Contrast(
            "they lose no accuracy, to a point",
            _minus("model_answer_only", "model_plain"),
            "not worse",
            margin=0.01,
            measure=ACCURACY,
        ),
    ),
}
# Where the step per axis is held against one z-score at the same β: no verdict, a map.
MAP: Mapping[str, tuple[str, str]] = {
    "given, distinct, λ true\nno axis to hack": ("clean_per_axis", "clean_scalar"),
    "given, distinct, λ true\nsentiment hackable": ("hackable_per_axis", "hackable_scalar"),
    "given, distinct, λ true\nrelevance hackable": ("mentions_per_axis", "mentions_scalar"),
    "given, distinct, λ blind\nsentiment hackable": ("blind_per_axis", "blind_scalar"),
    "learned, answer only\n(distinct, λ by task)": ("learned_per_axis", "learned_scalar"),
    "learned, plain\n(copies, λ nearly constant)": ("plain_per_axis", "plain_scalar"),
}
