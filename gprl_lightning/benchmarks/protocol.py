"""What a benchmark is to the task that runs it, and what passes between the two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from gprl_lightning.benchmarks.questions import Answers, Question
from gprl_lightning.benchmarks.sources import PublishedFile
from gprl_lightning.runtime.chat import Answer, ChatRequest, Failure

UNREADABLE = "no verdict in the text"  # why a verdict is missing


@dataclass(frozen=True)
class Contestant:
    """The model that is judged: its name in files and tables, and its answers."""

    model: str
    answers: Answers

    def answered(self, questions: Sequence[Question]) -> list[Question]:
        """Return the questions that it has an answer to, in their order."""
        return [q for q in questions if q.uid in self.answers]


@dataclass(frozen=True)
class Comparison:
    """One verdict that is wanted.

    Attributes:
        uid: of the question.
        part: which of the question's verdicts, in the benchmark's words: ``turn_2``, ….
        request: what the judge is asked.
        decided: the verdict's text if the benchmark's rules give it without asking (two empty
            answers, for example); None if the judge is asked.
    """

    uid: str
    part: str
    request: ChatRequest
    decided: str | None = None


@dataclass(frozen=True)
class Verdict:
    """A comparison, and what the judge said to it."""

    comparison: Comparison
    result: Answer | Failure

    @property
    def text(self) -> str | None:
        """The judge's words, or None if there are none."""
        return None if isinstance(self.result, Failure) else self.result.text


@dataclass(frozen=True)
class Judged:
    """All that a report is made of.

    Attributes:
        questions: that were asked.
        contestant: who answered.
        verdicts: one for each comparison that was wanted.
        judge: the name of the model that gave them.
        folder: takes the verdicts in the benchmark's own form.
    """

    questions: Sequence[Question]
    contestant: Contestant
    verdicts: Sequence[Verdict]
    judge: str
    folder: Path

    def question(self, verdict: Verdict) -> Question:
        """Return the question that a verdict is of."""
        return self._by_uid[verdict.comparison.uid]

    @cached_property
    def _by_uid(self) -> dict[str, Question]:
        return {q.uid: q for q in self.questions}

    def answer(self, uid: str) -> str:
        """Return the contestant's first answer to a question."""
        return self.contestant.answers[uid][0]

    def missing(self, read: Callable[[Verdict], object]) -> dict[str, int]:
        """Count the verdicts that are lost, by the reason.

        Args:
            read: returns what a verdict says, or None if its text makes no sense.
        """
        reasons = [
            v.result.kind if isinstance(v.result, Failure) else UNREADABLE
            for v in self.verdicts
            if isinstance(v.result, Failure) or read(v) is None
        ]
        return dict(Counter(reasons))


@dataclass(frozen=True)
class Figure:
    """A number of the result. ``low`` and ``high`` bound its interval, as `interval` says."""

    name: str
    label: str
    value: float
    low: float | None = None
    high: float | None = None
    interval: str = ""


@dataclass(frozen=True)
class PositionBias:
    """How often the answer that stood first won, over comparisons in balanced or random order.

    A judge that looks at nothing but the answers has 0.5. The interval holds 95 %.
    """

    first_wins: float
    low: float
    high: float
    comparisons: int

    def exceeds(self, limit: float) -> bool:
        """Return True if the bias is above `limit`, and not by chance."""
        sure = not self.low <= 0.5 <= self.high
        return sure and abs(self.first_wins - 0.5) > limit


@dataclass(frozen=True)
class Report:
    """What a benchmark says of a model.

    Attributes:
        figures: the numbers; the first is the one that the benchmark is known by. None if there
            is no verdict to score.
        wanted: how many verdicts were to be had.
        missing: how many of them are not, by the reason.
        position: the judge's position bias; None where answers are judged one by one.
        notes: what a reader of the numbers has to know.
    """

    figures: tuple[Figure, ...]
    wanted: int
    missing: Mapping[str, int]
    position: PositionBias | None = None
    notes: tuple[str, ...] = ()


class Benchmark(Protocol):
    """A published benchmark. ``max_new_tokens`` and ``judge_model`` are its authors' settings."""

    @property
    def name(self) -> str: ...
    @property
    def judge_model(self) -> str: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def judge_tokens(self) -> int:
        """How long a judge's answer is expected to be, in tokens; for the estimate alone."""
        ...

    @property
    def published_fingerprint(self) -> str | None:
        """The questions' `fingerprint` as published; None if we have never seen them."""
        ...

    def files(self) -> Sequence[PublishedFile]:
        """Return what has to be downloaded."""
        ...

    def load(self, folder: Path) -> list[Question]:
        """Read the questions from a folder that holds `files`."""
        ...

    def temperature(self, question: Question) -> float:
        """Return the temperature of a model's answer; 0 is greedy."""
        ...

    def write_answers(
        self, questions: Sequence[Question], contestant: Contestant, folder: Path
    ) -> Path:
        """Write the answers in the benchmark's own form. Return the file."""
        ...

    def read_answers(self, file: Path, questions: Sequence[Question]) -> Contestant:
        """Read a file of that form."""
        ...

    def comparisons(
        self, questions: Sequence[Question], contestant: Contestant
    ) -> list[Comparison]:
        """Return all verdicts that are wanted."""
        ...

    def report(self, judged: Judged) -> Report:
        """Score the verdicts, and write them to the folder in the benchmark's own form."""
        ...
