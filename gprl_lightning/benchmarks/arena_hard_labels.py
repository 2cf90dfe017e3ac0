"""What Arena-Hard's judge said: a label in brackets, for each of two orders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gprl_lightning.benchmarks.arena_hard_scores import LABEL_SCORES, first_wins
from gprl_lightning.benchmarks.protocol import Verdict
from gprl_lightning.runtime.chat import Answer

ORDERS = ("baseline_first", "model_first")
LABELS = (r"\[\[([AB<>=]+)\]\]", r"\[([AB<>=]+)\]")


def label_of(text: str | None) -> str | None:
    """Return the last label of a judge's text, such as ``A>>B``; None if there is none.

    Double brackets come before single ones, as in the authors' configuration. A label that their
    table does not know is none.
    """
    for pattern in LABELS:
        found = [m for m in re.findall(pattern, (text or "").upper()) if m]
        if found:
            return found[-1] if found[-1] in LABEL_SCORES else None
    return None


def labels_of(game: Mapping[str, Verdict]) -> tuple[str, str] | None:
    """Return the labels of a question's two games in `ORDERS`; None if one of them has none."""
    first, second = (label_of(game[order].text) for order in ORDERS)
    return None if first is None or second is None else (first, second)


def games_of(verdicts: Sequence[Verdict]) -> dict[str, dict[str, Verdict]]:
    games: dict[str, dict[str, Verdict]] = {}
    for verdict in verdicts:
        games.setdefault(verdict.comparison.uid, {})[verdict.comparison.part] = verdict
    return games


def game_row(verdict: Verdict) -> dict[str, Any] | None:
    """Return a game as the authors' file has it: None if the judge did not answer."""
    if not isinstance(verdict.result, Answer):
        return None
    return {
        "score": label_of(verdict.text),
        "judgment": {"answer": verdict.text},
        "prompt": [dict(m) for m in verdict.comparison.request.messages],
    }


def disagreement(pairs: Sequence[tuple[str, str]]) -> str:
    """Say in how many questions the two orders name different winners."""
    both = [[first_wins(label) for label in pair] for pair in pairs]
    torn = sum((a > 0.5 and b > 0.5) or (a < 0.5 and b < 0.5) for a, b in both)
    return f"{torn} of {len(both)} questions have another winner in the other order."
