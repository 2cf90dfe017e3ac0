"""The β of tuned arms: chosen on tuning seeds, by gold at the horizon, by nothing else. Ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from gprl_lightning.study.laboratory_plan import BETAS, CHOSEN_ON, GOLD, TUNED, TUNING_SEEDS
from gprl_lightning.study.laboratory_records import Kept, Settings
from gprl_lightning.study.stopping import BETA, CLOCK, KL_TRIGGER, stops

KL_COEF = BETA[:-1]


def tuning_gold(kept: Iterable[Kept], arm: str) -> dict[float, dict[int, float]]:
    """Return gold at the horizon of an arm's tuning runs, by β and seed."""
    found: dict[float, dict[int, float]] = {beta: {} for beta in BETAS}
    for one in kept:
        if one.label.arm == arm and one.label.beta is not None:
            found[one.label.beta][one.label.seed] = one.measures[GOLD]
    return found


def whole_seeds(gold: Mapping[float, Mapping[int, float]]) -> list[int]:
    """Return the tuning seeds on which every β was tried."""
    return [s for s in TUNING_SEEDS if all(s in by_seed for by_seed in gold.values())]


def chosen(kept: Iterable[Kept], arm: str, seeds: Iterable[int]) -> float:
    """Return the β whose mean gold at the horizon over these tuning seeds is highest; of equals
    the smallest.

    Raises:
        ValueError: a seed on which not every β was tried, or none.
    """
    gold = tuning_gold(kept, arm)
    wanted = [*seeds]
    missing = sorted({*wanted} - {*whole_seeds(gold)})
    if missing or not wanted:
        raise ValueError(
            f"{arm}: expected runs at every β ({', '.join(f'{b:g}' for b in BETAS)}) on tuning "
            f"seeds {wanted}; they are not whole on {missing or 'any'}."
        )
    means = [np.mean([gold[beta][seed] for seed in wanted]) for beta in BETAS]
    return BETAS[int(np.argmax(means))]


def chosen_seeds(kept: Iterable[Kept], arm: str) -> tuple[int, ...]:
    """Return the tuning seeds on which an arm's β was chosen; none if not all their runs are
    here."""
    seeds = CHOSEN_ON.get(arm, ())
    return seeds if {*seeds} <= {*whole_seeds(tuning_gold(kept, arm))} else ()


def require_chosen(kept: Iterable[Kept], arm: str, settings: Settings) -> None:
    """Raise a ValueError unless a tuned arm's β is the one that its tuning runs choose.

    No verdict run of it is taken before.
    """
    if arm not in TUNED:
        return
    tuned = TUNED[arm]
    if tuned not in CHOSEN_ON:
        raise ValueError(f"{arm}: expected its β to be chosen on tuning seeds first (CHOSEN_ON).")
    best, found = chosen(kept, tuned, CHOSEN_ON[tuned]), settings[KL_COEF]
    if best != found:
        raise ValueError(
            f"{arm}: expected {KL_COEF}={best:g}, which tuning seeds {[*CHOSEN_ON[tuned]]} choose; "
            f"found {found:g}."
        )


def stopped(kept: Sequence[Kept], best: str) -> dict[str, dict[int, float]]:
    """Return the gold of a tuned arm's verdict runs under a clock and a √KL trigger, by seed.

    Both are chosen on the tuning runs at the arm's β. Empty as long as these are not here.
    """
    seeds = chosen_seeds(kept, TUNED[best])
    runs = {one.label.seed: one.run for one in kept if one.label.arm == best}
    if not seeds or not runs:
        return {}
    beta = chosen(kept, TUNED[best], seeds)
    tuning = {
        one.label.seed: one.run
        for one in kept
        if one.label.arm == TUNED[best] and one.label.beta == beta and one.label.seed in seeds
    }
    found = stops({best: tuning | runs}, best, tuning)
    return {name: found[name] for name in (CLOCK, KL_TRIGGER)}
