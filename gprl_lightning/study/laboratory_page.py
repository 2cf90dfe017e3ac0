"""The measured part of the laboratory's page, as Markdown: no word before the last seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gprl_lightning.study.comparison import gold_summary
from gprl_lightning.study.intervals import Interval, student
from gprl_lightning.study.laboratory_judge import (
    Found,
    Judged,
    Measures,
    gold_difference,
    judge_primary,
    judge_secondary,
)
from gprl_lightning.study.laboratory_plan import (
    ACCURACY,
    ARMS,
    BETAS,
    GOLD,
    LOG_GATE_SPREAD,
    MAP,
    MODELS,
    REMEDIES,
    TUNED,
    VERDICT_SEEDS,
)
from gprl_lightning.study.laboratory_records import AXIS_CORRELATION, Kept, by_arm
from gprl_lightning.study.laboratory_tuning import chosen_seeds, stopped, tuning_gold, whole_seeds
from gprl_lightning.tracking import metrics

INTERIM = "interim, no verdict"
PLANNED = len(VERDICT_SEEDS)


def measures_of(kept: Sequence[Kept]) -> Measures:
    """Return what contrasts are made of: verdict runs alone."""
    return {
        arm: {seed: one.measures for seed, one in runs.items()}
        for arm, runs in by_arm(kept).items()
    }


def measured_part(kept: Sequence[Kept], pictures: Mapping[str, str]) -> str:
    """Return verdicts, pictures and tables.

    Args:
        kept: every run.
        pictures: each picture's address seen from the page, by name.
    """
    measures = measures_of(kept)
    primary, secondary = judge_primary(measures), judge_secondary(measures)
    parts = [
        _origin(kept),
        "### Primary",
        _table(["contrast", "points", "seeds", "detectable", "verdict"], [_primary_row(primary)]),
        *_picture(pictures, "verdicts", "the registered contrasts that are complete"),
        "### The six hypotheses",
        _table(*_secondary(secondary)),
        *_picture(pictures, "worlds", "gold against the distance to the starting policy, by world"),
        "### By world",
        *_worlds(kept),
        "### Remedies of others",
        _table(
            [f"learned axes, less {ARMS['bt_best'].name}", "points", "seeds"],
            _remedy_rows(measures),
        ),
        "### When does the step per axis help?",
        *_picture(pictures, "map", "what the step per axis adds to one z-score, by kind of axes"),
        _table(["axes", "per axis less one z-score", "seeds"], _map_rows(measures)),
        "### How β was chosen",
        *_tuning(kept),
        "### What is not shown so far",
        "\n".join(_not_shown(primary, secondary)),
    ]
    return "\n\n".join(parts)


def _picture(pictures: Mapping[str, str], name: str, caption: str) -> list[str]:
    return [f"![{caption}]({pictures[name]})"] if name in pictures else []


def _origin(kept: Sequence[Kept]) -> str:
    runs = by_arm(kept)
    registered = [arm for arm, what in ARMS.items() if not what.explores]
    whole = min(len(runs.get(arm, {})) for arm in registered)
    main = min(len(runs.get(arm, {})) for arm in ("full_best", "bt_best"))
    tuning = sum(one.label.beta is not None for one in kept)
    minutes = sum(one.cpu_minutes for one in kept)
    commits = ", ".join(sorted({one.commit[:7] for one in kept})) or "none"
    told = INTERIM.capitalize()
    if main == PLANNED:
        told = "Complete" if whole == PLANNED else "The primary is judged; the rest is interim"
    return (
        f"**{told}.** Seeds of {PLANNED}: {main} of the "
        f"primary's arms, {whole} of all registered arms. {len(kept)} runs, {tuning} of them for "
        f"tuning; {minutes:.0f} CPU minutes so far; code at {commits}."
    )


def _primary_row(found: Found) -> list[str]:
    word = found.paired.verdict if found.paired else INTERIM
    return [found.contrast.says, *_figures(found), word]


def _secondary(judged: Mapping[str, Judged]) -> tuple[list[str], list[list[str]]]:
    head = ["", "contrast", "found", "seeds", "detectable", "expected", "word", "p, Holm", "holds?"]
    rows = []
    for name, hypothesis in judged.items():
        for place, found in enumerate(hypothesis.found):
            first = place == 0
            interim = hypothesis.word == "interim"
            rows.append([
                name if first else "",
                found.contrast.says,
                *_figures(found),
                found.contrast.expected,
                found.paired.verdict if found.paired else "–",
                f"{hypothesis.chance:.3f}" if first and not interim else "",
                (INTERIM if interim else hypothesis.word) if first else "",
            ])  # fmt: skip
    return head, rows


def _figures(found: Found) -> list[str]:
    """Difference, seeds and what they could show; in points of gold or accuracy, or as a factor.

    No difference is printed before the last seed.
    """
    if found.paired is None:
        return ["–", f"{found.seeds} of {PLANNED}", "–"]
    seen = found.paired.interval
    if found.contrast.measure == LOG_GATE_SPREAD:
        less = found.contrast.less
        factors = [math.exp(v + less) for v in (seen.mean, seen.low, seen.high)]
        text = "× {:.1f} [{:.1f}, {:.1f}]".format(*factors)
        return [text, str(found.seeds), f"× {math.exp(found.paired.detectable):.2f}"]
    return [_points(seen), str(found.seeds), f"{100 * found.paired.detectable:.1f}"]


def _points(interval: Interval) -> str:
    if math.isnan(interval.mean):
        return "–"
    mean, low, high = (100 * v for v in (interval.mean, interval.low, interval.high))
    return f"{mean:+.1f}" + ("" if math.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")


def _worlds(kept: Sequence[Kept]) -> list[str]:
    runs = by_arm(kept)
    parts = []
    for world in dict.fromkeys(arm.world for arm in ARMS.values()):
        here = {arm: found for arm, found in runs.items() if ARMS[arm].world == world}
        if here:
            parts += [f"**{world}**", _models(here) if world == MODELS else _arms(here)]
        if "bt_best" in here:
            parts += _stopped(kept, "bt_best")
    return parts or ["No run on a verdict seed yet."]


def _stopped(kept: Sequence[Kept], arm: str) -> list[str]:
    lines = []
    for name, gold in stopped(kept, arm).items():
        reached = _rate(student(np.array(list(gold.values()))))
        lines.append(f"{ARMS[arm].name}, stopped by a {name} chosen on tuning seeds: {reached}.")
    return lines


def _arms(runs: Mapping[str, Mapping[int, Kept]]) -> str:
    head = ["arm", "seeds", "gold at the horizon", "peak", "√KL", "length", "β", "m by axis"]
    tasks = sorted(
        {task for found in runs.values() for one in found.values() for task in one.by_task}
    )
    rows = []
    for arm, found in runs.items():
        all_of = list(found.values())
        summaries = [gold_summary(one.run) for one in all_of]
        rows.append([
            ARMS[arm].name + (" *(exploratory)*" if ARMS[arm].explores else ""),
            str(len(all_of)),
            _rate(student(np.array([one.measures[GOLD] for one in all_of]))),
            f"{np.mean([s.peak for s in summaries]):.2f}",
            f"{np.mean([one.run.distance()[-1] for one in all_of]):.1f}",
            f"{np.mean([one.curves[metrics.EVAL_RESPONSE_LENGTH][-1] for one in all_of]):.0f}",
            f"{np.mean([one.kl_coef for one in all_of if one.kl_coef is not None]):.3g}",
            _multipliers(all_of),
            *(f"{np.mean([one.by_task.get(t, math.nan) for one in all_of]):.2f}" for t in tasks),
        ])  # fmt: skip
    return _table([*head, *tasks], rows)


def _multipliers(runs: Sequence[Kept]) -> str:
    if not any(one.multipliers and {*one.multipliers} != {1.0} for one in runs):
        return ""
    return " ".join(f"{m:.2f}" for m in np.mean([one.multipliers for one in runs], 0))


def _models(runs: Mapping[str, Mapping[int, Kept]]) -> str:
    head = ["model", "seeds", "accuracy", "gate's spread", "correlation of axes"]
    rows = []
    for arm, found in runs.items():
        values = [one.measures for one in found.values()]
        spread = np.exp([v[LOG_GATE_SPREAD] for v in values])
        rows.append([
            ARMS[arm].name,
            str(len(values)),
            _rate(student(np.array([v[ACCURACY] for v in values])), 3),
            _rate(student(spread), 3),
            _rate(student(np.array([v[AXIS_CORRELATION] for v in values]))),
        ])  # fmt: skip
    return _table(head, rows)


def _rate(interval: Interval, digits: int = 2) -> str:
    bounds = f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
    return f"{interval.mean:.{digits}f}" + ("" if math.isnan(interval.low) else bounds)


def _map_rows(measures: Measures) -> list[list[str]]:
    return [
        _explored(measures, axes.replace("\n", "; "), arm, other)
        for axes, (arm, other) in MAP.items()
    ]


def _remedy_rows(measures: Measures) -> list[list[str]]:
    remedies = [arm for arm, what in ARMS.items() if what.world == REMEDIES]
    return [_explored(measures, ARMS[arm].name, arm, "bt_best") for arm in remedies]


def _explored(measures: Measures, name: str, arm: str, other: str) -> list[str]:
    seeds, interval = gold_difference(measures, arm, other)
    told = "–" if math.isnan(interval.mean) else _points(interval)
    return [name, told, str(seeds)]


def _tuning(kept: Sequence[Kept]) -> list[str]:
    head = ["arm", *(f"β {beta:g}" for beta in BETAS), "seeds", "chosen"]
    rows = []
    for best, arm in TUNED.items():
        if ARMS[best].explores:
            continue
        gold = tuning_gold(kept, arm)
        settles = chosen_seeds(kept, arm)
        seeds = settles or tuple(whole_seeds(gold))
        means = [float(np.mean([g[s] for s in seeds] or [math.nan])) for g in gold.values()]
        cells = ["–" if math.isnan(m) else f"{m:.3f}" for m in means]
        settled = f"{BETAS[int(np.argmax(means))]:g}" if settles else "not yet"
        rows.append([ARMS[best].name, *cells, ", ".join(map(str, seeds)) or "–", settled])
    return ["Gold at the horizon on tuning seeds, which no verdict reads.", _table(head, rows)]


def _not_shown(primary: Found, judged: Mapping[str, Judged]) -> list[str]:
    lines = []
    if primary.paired is None:
        lines.append(f"- The primary: {primary.seeds} of {PLANNED} seeds.")
    elif primary.paired.verdict != "better":
        lines.append(f"- {primary.contrast.says}: {primary.paired.verdict}.")
    for name, hypothesis in judged.items():
        if hypothesis.word == "interim":
            seeds = min(f.seeds for f in hypothesis.found)
            lines.append(f"- {name}: {seeds} of {PLANNED} seeds.")
        elif hypothesis.word != "holds":
            lines.append(f"- {name}: {hypothesis.word}.")
    return lines or ["- Nothing of what was registered."]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
