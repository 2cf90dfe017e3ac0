"""What an evaluation says of its judges, beside their win rates."""

from __future__ import annotations

from collections.abc import Sequence

from gprl_lightning.core.batch import Prompt
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.answer_log import TASK

MOST_TASKS = 12  # of more, a win rate each would be a table of noise; ours
NEAR = 0.05  # of a half: a comparison that a judge can hardly tell; ours


def cut_share(name: str, before: tuple[int, int], after: tuple[int, int]) -> dict[str, float]:
    """Return the share of the texts that a judge's networks read now and could not read to their
    end, ``eval/cut_fraction/<name>``; nothing of a judge without any."""
    read, cut = after[0] - before[0], after[1] - before[1]
    return {metrics.of_judge(metrics.EVAL_CUT_FRACTION, name): cut / read} if read else {}


def undecided(name: str, chances: Sequence[float | None]) -> dict[str, float]:
    """Return the share of a judge's comparisons within `NEAR` of a half, ``eval/undecided/<name>``;
    nothing where it decided none."""
    decided = [abs(chance - 0.5) <= NEAR for chance in chances if chance is not None]
    share = {metrics.of_judge(metrics.EVAL_UNDECIDED, name): sum(decided) / max(len(decided), 1)}
    return share if decided else {}


def by_task(prompts: Sequence[Prompt], verdicts: Sequence[float | None]) -> dict[str, float]:
    """Return the win rate over the prompts of each task, ``eval/win_rate_by_task/<task>``.

    The task is the column of that name. Nothing where the data has none, one alone, or more than
    `MOST_TASKS`.
    """
    outcomes: dict[str, list[float]] = {}
    for prompt, verdict in zip(prompts, verdicts, strict=True):
        task = prompt.columns.get(TASK)
        if isinstance(task, str) and verdict is not None:
            outcomes.setdefault(task, []).append(verdict)
    if not 1 < len(outcomes) <= MOST_TASKS:
        return {}
    return {
        metrics.of_task(metrics.EVAL_WIN_RATE_BY_TASK, task): sum(found) / len(found)
        for task, found in sorted(outcomes.items())
    }
