"""The registered contrasts, judged: no word before the last verdict seed, Holm over the six."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gprl_lightning.study.holm import holm
from gprl_lightning.study.intervals import LEVEL, Array, Interval, student, student_test
from gprl_lightning.study.laboratory_plan import HYPOTHESES, PRIMARY, VERDICT_SEEDS, Contrast
from gprl_lightning.study.verdicts import Paired, judge

Measures = Mapping[str, Mapping[int, Mapping[str, float]]]  # by arm, seed and name
Holds = Literal["holds", "refuted", "undecided", "interim"]
OPPOSITE = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class Found:
    """A contrast, as far as its runs go.

    Attributes:
        contrast: what was registered.
        seeds: verdict seeds that all its arms have finished.
        paired: the differences, judged at 5 %; None before the last seed.
        chance: p that what was expected is not so; 1 before the last seed.
    """

    contrast: Contrast
    seeds: int
    paired: Paired | None
    chance: float

    @property
    def complete(self) -> bool:
        return self.paired is not None


@dataclass(frozen=True)
class Judged:
    """A hypothesis: all of its contrasts have to come out as expected.

    Attributes:
        found: its contrasts.
        chance: the largest p of theirs, adjusted after Holm over all hypotheses.
        word: *holds* if that is at most 5 %; *refuted* if the opposite of one contrast's claim is
            shown, at 5 %, unadjusted; *interim* before the last seed.
    """

    found: tuple[Found, ...]
    chance: float
    word: Holds


def differences(measures: Measures, contrast: Contrast) -> Array:
    """Return the weighted sum over the arms, less what it has to exceed, for each verdict seed
    that all of them have."""
    arms = {arm: measures.get(arm, {}) for arm in contrast.weights}
    seeds = [s for s in VERDICT_SEEDS if all(s in by_seed for by_seed in arms.values())]
    sums = [
        sum(w * arms[arm][seed][contrast.measure] for arm, w in contrast.weights.items())
        for seed in seeds
    ]
    return np.array(sums) - contrast.less


def find(measures: Measures, contrast: Contrast) -> Found:
    """Judge one contrast, if the last of its seeds has come."""
    values = differences(measures, contrast)
    if len(values) < len(VERDICT_SEEDS):
        return Found(contrast, len(values), None, 1.0)
    paired = judge(values, LEVEL, contrast.margin)
    return Found(contrast, len(values), paired, chance_of(values, paired, contrast))


def chance_of(values: Array, paired: Paired, contrast: Contrast) -> float:
    """Return the two-sided p of what was expected; 1 if the differences point the other way.

    *Better* and *worse* take the larger p of Student's and the sign-flip test, and have none if the
    interval lies within the margin. The others are Student's test of the differences, moved by the
    margin.
    """
    if contrast.expected in ("better", "worse"):
        sign = 1 if contrast.expected == "better" else -1
        if paired.verdict == "equivalent" or sign * paired.interval.mean <= 0:
            return 1.0
        return max(paired.student, paired.sign_flip)
    sign = 1 if contrast.expected == "not worse" else -1
    moved = sign * values + contrast.margin
    return student_test(moved) if moved.mean() > 0 else 1.0


def judge_primary(measures: Measures) -> Found:
    """Judge the primary contrast, which has the whole 5 % for itself."""
    return find(measures, PRIMARY)


def judge_secondary(measures: Measures) -> dict[str, Judged]:
    """Judge the six hypotheses.

    A hypothesis holds if every contrast of it does (an intersection-union test: its p is the
    largest of theirs). One that is not complete has p = 1, so that a word that has been said is
    never taken back by those that follow.
    """
    found = {name: tuple(find(measures, c) for c in cs) for name, cs in HYPOTHESES.items()}
    chances = holm([max(f.chance for f in fs) for fs in found.values()])
    return {
        name: Judged(fs, chance, _word(fs, chance))
        for (name, fs), chance in zip(found.items(), chances, strict=True)
    }


def _word(found: Sequence[Found], chance: float) -> Holds:
    if not all(f.complete for f in found):
        return "interim"
    if chance <= LEVEL:
        return "holds"
    return "refuted" if any(_contradicted(f) for f in found) else "undecided"


def _contradicted(found: Found) -> bool:
    """True if the opposite is shown, or if what should be *better* or *worse* surely is neither."""
    contrast, paired = found.contrast, found.paired
    assert paired is not None
    if contrast.expected == "not worse":
        return paired.interval.high < -contrast.margin
    if contrast.expected == "not better":
        return paired.interval.low > contrast.margin
    return paired.verdict in (OPPOSITE[contrast.expected], "equivalent")


def gold_difference(measures: Measures, arm: str, other: str) -> tuple[int, Interval]:
    """Return how many verdict seeds two arms share so far, and the mean difference in gold at the
    horizon with Student's interval; nan for a registered contrast before its last seed."""
    contrast = Contrast("", {arm: 1.0, other: -1.0})
    values = differences(measures, contrast)
    if len(values) < len(VERDICT_SEEDS) and dict(contrast.weights) in _registered():
        return len(values), Interval(math.nan, math.nan, math.nan)
    return len(values), student(values)


def _registered() -> list[dict[str, float]]:
    """The weights of every contrast of which nothing is said before the last seed."""
    return [dict(c.weights) for c in (PRIMARY, *(c for cs in HYPOTHESES.values() for c in cs))]
