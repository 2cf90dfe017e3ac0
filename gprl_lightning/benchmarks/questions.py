"""A benchmark's questions with their reference answers, and a checksum of what they say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gprl_lightning.core.batch import Messages

# What a model said, by the question's uid: one text for each turn.
Answers = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Question:
    """What is asked in one conversation.

    Attributes:
        uid: its name in the benchmark.
        turns: what the user says, one after the other; the model answers each.
        category: by which the benchmark sorts its questions; "" if it does not.
        history: messages that stand before the first turn.
        references: answers of other models by their names, a text for each turn: a baseline to be
            compared with, or a solution that the judge is shown.
        row: further columns of the question's row, as published.
    """

    uid: str
    turns: tuple[str, ...]
    category: str = ""
    history: Messages = ()
    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)

    def messages(self, answers: Sequence[str]) -> Messages:
        """Return the conversation up to the turn that comes after `answers`."""
        messages = [*self.history]
        for turn, answer in zip(self.turns, answers, strict=False):
            messages.append({"role": "user", "content": turn})
            messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": self.turns[len(answers)]})
        return tuple(messages)


def fingerprint(questions: Sequence[Question]) -> str:
    """Return the SHA-256 of what the questions and their reference answers say, in their order.

    It is of the content, so the same rows in another file format have the same one. The names of
    the models that gave the answers are left out.
    """
    rows = [
        [q.uid, q.turns, [dict(m) for m in q.history], [t for _, t in sorted(q.references.items())]]
        for q in questions
    ]
    text = json.dumps(rows, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
