"""The measured part of the baselines' page, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gprl_lightning.study.baselines import (
    RIVALS,
    Beside,
    Budget,
    arms_in,
    beside,
    budgets_in,
    detectable,
    same_runs,
)
from gprl_lightning.study.claims import name_of
from gprl_lightning.study.comparison import Arms, gold_summary, over_seeds
from gprl_lightning.study.intervals import FEWEST_PAIRS, Interval
from gprl_lightning.study.verdicts import MARGIN
from gprl_lightning.tracking import metrics

EXPLAINED = (
    "Differences in points of gold, method less rival, seed by seed, at equal √KL: the mean over "
    "the far half of the distance that both come to. p: Student's test, after Holm over the "
    "column. *Frontier* and *stop*: the study's verdicts."
)
BEGIN, END = "<!-- measured: written by a command -->", "<!-- end of what is measured -->"


def with_measured(page: str, measured: str) -> str:
    """Return the page with what stands between its two marks replaced.

    Raises:
        ValueError: the page has not both marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"expected a page with the lines {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n{measured}\n{END}{after}"


def measured_part(record: Mapping[str, Any], picture: str) -> str:
    """Return runs, picture and tables as Markdown.

    Args:
        record: of `baselines.record_of`.
        picture: the picture's address, seen from the page.
    """
    arms, left_out = arms_in(record)
    families = {rival: beside(arms, rival) for rival in RIVALS if rival in arms}
    parts = [
        _origin(record, arms, left_out),
        f"![gold against the distance to the starting policy, by method]({picture})",
        _table(*_costs(arms, budgets_in(record))),
        EXPLAINED,
        _table(*_differences(arms, families)),
        _what_can_be_seen(arms, families),
    ]
    return "\n\n".join(parts)


def _origin(record: Mapping[str, Any], arms: Arms, left_out: Sequence[int]) -> str:
    seeds = sorted(next(iter(arms.values())))
    named = ", ".join(map(str, seeds))
    more = f" (unfinished and left out: {', '.join(map(str, left_out))})" if left_out else ""
    commit = str(record["git_commit"])[:7]
    same = "".join(
        f" {name_of(one)} and {name_of(other)} are the same runs, digit by digit."
        for one, other in same_runs(arms)
    )
    on = f"{len(seeds)} seeds ({named})" if len(seeds) > 1 else f"one seed ({named})"
    return (
        f"{len(arms)} words on {on}{more}: `python train.py grid=baselines`, commit {commit}.{same}"
    )


def _costs(arms: Arms, budgets: Mapping[str, Budget]) -> tuple[list[str], list[list[str]]]:
    head = ["method", "sampled", "in updates", "updates"]
    head += ["gold: peak", "at the horizon", "√KL there", "proxy there"]
    rows = []
    for arm, by_seed in arms.items():
        runs, budget = list(by_seed.values()), budgets[arm]
        summaries = {run.seed: gold_summary(run) for run in runs}
        rows.append([
            name_of(arm), f"{budget.samples:,}", f"{budget.learned:,}", str(budget.updates),
            _rate(over_seeds(runs, lambda r, s=summaries: s[r.seed].peak), bounds=False),
            _rate(over_seeds(runs, lambda r, s=summaries: s[r.seed].final)),
            f"{over_seeds(runs, lambda r: float(r.distance()[-1])).mean:.1f}",
            _rate(over_seeds(runs, _proxy), bounds=False),
        ])  # fmt: skip
    return head, rows


def _proxy(run: Any) -> float:
    values = run.values(metrics.EVAL_PROXY_WIN_RATE)[1]
    return float(values[-1]) if len(values) else math.nan


def _differences(
    arms: Arms, families: Mapping[str, Mapping[str, Beside]]
) -> tuple[list[str], list[list[str]]]:
    head = ["method"]
    for rival in families:
        head += [f"less {name_of(rival)}", "p", "frontier", "stop"]
    rows = []
    for arm in arms:
        row = [name_of(arm)]
        for family in families.values():
            row += _cells(family[arm]) if arm in family else ["", "", "", ""]
        rows.append(row)
    return head, rows


def _cells(found: Beside) -> list[str]:
    frontier = found.compared.frontier
    chance = "–" if math.isnan(found.chance) else f"{found.chance:.2f}"
    return [_points(frontier.interval), chance, frontier.verdict, found.compared.stop]


def _what_can_be_seen(arms: Arms, families: Mapping[str, Mapping[str, Beside]]) -> str:
    seeds = len(next(iter(arms.values())))
    if seeds < FEWEST_PAIRS:
        few = "One seed allows" if seeds == 1 else f"{seeds} seeds allow"
        return f"{few} no interval and no test, so that every verdict is *undecided*."
    least = detectable([b for family in families.values() for b in family.values()])
    low, middle, high = (100 * v for v in (least.low, least.mean, least.high))
    said = (
        f"With {seeds} seeds, Student's test finds a true difference of {middle:.0f} points in "
        f"four studies of five (the median comparison; the quietest {low:.0f}, the noisiest "
        f"{high:.0f}), before Holm."
    )
    best = 2 / 2**seeds
    if best > 0.05:
        said += (
            f" The sign-flip test of {seeds} seeds has p {best:.2g} at best, so that no comparison "
            f"can be *better* or *worse*: *equivalent* (surely within {100 * MARGIN:.0f} points) "
            "and *undecided* are the words left."
        )
    return said


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rate(found: Interval, bounds: bool = True) -> str:
    if math.isnan(found.mean):
        return "–"
    text = _short(found.mean)
    if not bounds or math.isnan(found.low):
        return text
    return f"{text} [{_short(max(found.low, 0))}, {_short(min(found.high, 1))}]"


def _short(rate: float) -> str:
    return f"{rate:.2f}".removeprefix("0")


def _points(found: Interval) -> str:
    mean, low, high = (f"{100 * v:+.0f}" for v in (found.mean, found.low, found.high))
    text = mean if math.isnan(found.low) else f"{mean} [{low}, {high}]"
    return text.replace("-", "−")
