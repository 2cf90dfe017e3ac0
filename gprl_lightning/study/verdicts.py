"""What the differences of two arms, one per seed, allow one to say: four words. Ours.

The margin is looked at before the sign: a gain that surely lies within five points either way is
*equivalent*, even if it surely is not 0. *Better* and *worse* need two tests that lean on different
things: Student's interval on normal differences, the sign-flip permutation test on differences that
are as likely to have either sign. Below six seeds no permutation test comes to 5 %, so that fewer
can show an equivalence but no gain. A bootstrap over so few seeds adds nothing: it is narrower than
Student's interval and covers less than it says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gprl_lightning.study.intervals import (
    FEWEST_PAIRS,
    LEVEL,
    Array,
    Interval,
    quantile,
    student,
    student_test,
)

Verdict = Literal["better", "worse", "equivalent", "undecided"]
MARGIN = 0.05  # five points of gold win rate: less makes no difference that the study speaks of
POWER = 0.8
MOST_EXACT = 20  # pairs; a million ways to flip their signs
DRAWN = 2**17  # ways, of more pairs


@dataclass(frozen=True)
class Paired:
    """The differences of two arms over common seeds, judged.

    Attributes:
        interval: mean and Student's interval.
        student: p of Student's test, two-sided; NaN of fewer than three.
        sign_flip: p of the sign-flip permutation test, two-sided.
        detectable: the true difference that these seeds would show in four studies of five.
        verdict: what `judge` says.
    """

    interval: Interval
    student: float
    sign_flip: float
    detectable: float
    verdict: Verdict


def judge(differences: Array, level: float = LEVEL, margin: float = MARGIN) -> Paired:
    """Judge the arm's value less the other's, one difference per seed.

    Args:
        differences: NaN where a seed has none; it is left out.
        level: of the interval and of both tests, two-sided. Less than 5 % where the same claim was
            or will be judged on other numbers of seeds: `alpha_spending.levels`.
        margin: a difference that surely is smaller, either way, is an equivalence.
    """
    known = differences[~np.isnan(differences)]
    interval, chance = student(known, level), sign_flip(known)
    return Paired(
        interval=interval,
        student=student_test(known),
        sign_flip=chance,
        detectable=detectable(known, level),
        verdict=_word(interval, chance, level, margin),
    )


def _word(interval: Interval, chance: float, level: float, margin: float) -> Verdict:
    if math.isnan(interval.low):
        return "undecided"
    if -margin < interval.low and interval.high < margin:
        return "equivalent"
    if chance > level or interval.low <= 0 <= interval.high:
        return "undecided"
    return "better" if interval.low > 0 else "worse"


def sign_flip(differences: Array) -> float:
    """Return the two-sided p of the sign-flip permutation test (Fisher 1935).

    The share of all ways to flip the signs whose sum is as far from 0 as the one that was seen:
    all 2^n of them up to 20 differences, 131,072 drawn ones beyond. NaN of no differences.
    """
    if not len(differences):
        return math.nan
    seen = abs(float(differences.sum())) - 1e-12 * float(np.abs(differences).sum())
    if len(differences) <= MOST_EXACT:
        sums = np.zeros(1)
        for difference in differences:
            sums = np.concatenate([sums + difference, sums - difference])
        return float((np.abs(sums) >= seen).mean())
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (DRAWN, len(differences)))
    as_far = int((np.abs(signs @ differences) >= seen).sum())
    return (as_far + 1) / (DRAWN + 1)


def detectable(differences: Array, level: float = LEVEL) -> float:
    """Return the difference that Student's test would find in 80 % of studies like this one.

    ``(t(1 − level/2) + t(.8)) · s/√n``, the usual approximation. NaN of fewer than three.
    """
    if len(differences) < FEWEST_PAIRS:
        return math.nan
    return detectable_at(float(np.std(differences, ddof=1)), len(differences), level)


def detectable_at(spread: float, seeds: int, level: float = LEVEL) -> float:
    """Return the same for a study that is planned.

    Args:
        spread: standard deviation of the differences over seeds, in any unit.
        seeds: how many; three or more.
        level: of the test, two-sided.
    """
    quantiles = quantile(seeds - 1, 1 - level / 2) + quantile(seeds - 1, POWER)
    return quantiles * spread / math.sqrt(seeds)


def against_all(words: Iterable[Verdict]) -> Verdict:
    """Return one word for an arm against several rivals, all of which it has to beat.

    *Better* than every one, or *worse* than one at least; *equivalent* if it is level with some and
    better than the rest.
    """
    said = set(words)
    if "worse" in said:
        return "worse"
    if not said or "undecided" in said:
        return "undecided"
    return "better" if said == {"better"} else "equivalent"
