"""From WildBench's gradings and comparisons to WB-Score and WB-Reward.

As in the authors' ``_create_tables.py``: a grade s counts (s − 5) · 2, shown ×10; a comparison
counts 1, ½, 0, −½ or −1, shown ×100, and 0 if one of its answers is cut or empty. Each is given as
the mean over all, and as the weighted mean over five groups of tasks, of which cut and empty
answers are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from gprl_lightning.benchmarks.intervals import normal_interval
from gprl_lightning.benchmarks.protocol import Figure

GROUPS = {
    "Information seeking": "Information/Advice seeking",
    "Creative Writing": "Creative Tasks",
    "Coding & Debugging": "Coding & Debugging",
    "Reasoning": "Planning & Reasoning",
    "Editing": "Creative Tasks",
    "Math": "Math & Data Analysis",
    "Planning": "Planning & Reasoning",
    "Brainstorming": "Creative Tasks",
    "Role playing": "Creative Tasks",
    "Advice seeking": "Information/Advice seeking",
    "Data Analysis": "Math & Data Analysis",
    "Others": "Creative Tasks",
}
WEIGHTS = {
    "Creative Tasks": 0.5,
    "Planning & Reasoning": 1.25,
    "Math & Data Analysis": 1.0,
    "Information/Advice seeking": 0.75,
    "Coding & Debugging": 1.25,
}
CUT, EMPTY = "... (truncated)", "[This model response is empty.]"
INTERVAL = "95 %, standard error (ours)"


@dataclass(frozen=True)
class Grade:
    """A grade from 1 to 10, with the answer as the judge saw it."""

    tags: Sequence[str]
    answer: str
    grade: float


@dataclass(frozen=True)
class Outcome:
    """One comparison. ``extent``: 2 much better than the reference, 1 slightly, 0 a tie, …, −2."""

    reference: str
    tags: Sequence[str]
    answer: str
    other: str
    extent: int
    model_first: bool

    @property
    def whole(self) -> bool:
        """True if neither of the answers is cut or empty."""
        return _whole(self.answer) and _whole(self.other)

    @property
    def first_wins(self) -> float:
        """1 if the answer that stood first won, ½ for a tie, 0 if it lost."""
        first = self.extent if self.model_first else -self.extent
        return 0.5 if first == 0 else float(first > 0)


def reward(outcome: Outcome, margin: int) -> float:
    """Return the reward of a comparison: extent / 2, or 0 if an answer is cut or empty.

    A slight win of an answer that is longer by more than `margin` characters is a tie; the
    reference's slight wins are treated alike. A margin below 0 changes nothing.
    """
    if not outcome.whole:
        return 0.0
    if abs(outcome.extent) == 1 and margin >= 0:
        longer = len(outcome.answer) - len(outcome.other)
        if longer * outcome.extent > margin:
            return 0.0
    return outcome.extent / 2


def task_mean(values: Sequence[tuple[Sequence[str], float]]) -> float:
    """Return the weighted mean over task groups of the mean in each; `values` are (tags, value).

    A value counts once in each group that one of its tags belongs to. A group without a value
    counts 0, as in the authors' table.
    """
    groups: dict[str, list[float]] = {}
    for tags, number in values:
        for group in {GROUPS[tag] for tag in tags}:
            groups.setdefault(group, []).append(number)
    return sum(WEIGHTS[g] * fmean(v) for g, v in groups.items()) / sum(WEIGHTS.values())


def _whole(answer: str) -> bool:
    return bool(answer.strip()) and answer != EMPTY and not answer.endswith(CUT)


def score_figures(grades: Sequence[Grade]) -> list[Figure]:
    """Return WB-Score, by tasks and over all."""
    if not grades:
        return []
    plain = [(g.grade - 5) * 20 for g in grades]
    by_task = [(g.tags, (g.grade - 5) * 20) for g in grades if _whole(g.answer)]
    figures = [_figure("wb_score", "WB-Score", plain)]
    if by_task:
        figures.append(Figure("wb_score_by_task", "WB-Score by task", task_mean(by_task)))
    return figures


def reward_figures(outcomes: Sequence[Outcome], reference: str, margin: int) -> list[Figure]:
    """Return WB-Reward against one reference model, with and without the length margin."""
    if not outcomes:
        return []
    found = []
    for k in dict.fromkeys((margin, -1)):
        values = [100 * reward(o, k) for o in outcomes]
        label = f"WB-Reward against {reference}, {_margin(k)}"
        found.append(_figure(f"wb_reward_{reference}_k{k}", label, values))
    return found


def mix_figures(
    outcomes: Sequence[Outcome], references: Sequence[str], margin: int
) -> list[Figure]:
    """Return WB-Reward-Mix: the mean of the rewards against each reference model.

    There is none unless every reference model was compared with.
    """
    by_model = [[o for o in outcomes if o.reference == model] for model in references]
    if not by_model or not all(by_model):
        return []
    found = []
    for k in dict.fromkeys((margin, -1)):
        means = [fmean(100 * reward(o, k) for o in group) for group in by_model]
        found.append(Figure(f"wb_reward_mix_k{k}", f"WB-Reward mix, {_margin(k)}", fmean(means)))
    groups = [[(o.tags, 100 * reward(o, margin)) for o in group if o.whole] for group in by_model]
    if all(groups):
        mean = fmean(map(task_mean, groups))
        label = f"WB-Reward mix by task, {_margin(margin)}"
        found.append(Figure(f"wb_reward_mix_by_task_k{margin}", label, mean))
    return found


def _figure(name: str, label: str, values: Sequence[float]) -> Figure:
    return Figure(name, label, fmean(values), *normal_interval(values), INTERVAL)


def _margin(k: int) -> str:
    return "no margin" if k < 0 else f"K = {k}"
