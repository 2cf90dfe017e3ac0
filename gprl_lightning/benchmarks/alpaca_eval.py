"""AlpacaEval 2 (arXiv 2404.04475): 805 instructions against GPT-4 Turbo, judged by one token.

The judge names the better of two models by one token; the log-probabilities of both names give a
weighted preference. The length-controlled win rate is computed by the authors' own package alone;
see `gprl_lightning.benchmarks.alpaca_length`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from gprl_lightning.benchmarks.alpaca_length import length_controlled_win_rate
from gprl_lightning.benchmarks.files import filled, judge_prompt, read_rows, value, write_json
from gprl_lightning.benchmarks.intervals import Z95, position_bias, standard_error
from gprl_lightning.benchmarks.protocol import (
    Comparison,
    Contestant,
    Figure,
    Judged,
    Report,
    Verdict,
)
from gprl_lightning.benchmarks.questions import Question, fingerprint
from gprl_lightning.benchmarks.sources import PublishedFile
from gprl_lightning.runtime.chat import Answer, ChatRequest

ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
BASELINE_FILE = "alpaca_eval_gpt4_baseline.json"
REPO, REVISION = "tatsu-lab/alpaca_eval", "2edc6fad8be6b14ea7230aabfd08188da6b8b814"
SHA256 = "83db546b872ddebee8965fd05fa48461ee3c32bc695c62fb57f2d214ff741ec4"
FIRST, SECOND = "m", "M"  # what the judge calls the first answer, and the second
SAME = "same"  # part of a comparison of two equal answers, which nobody is asked about


@dataclass(frozen=True)
class AlpacaEval2:
    """AlpacaEval 2.

    Args:
        python: an interpreter that has the ``alpaca_eval`` package, for the length-controlled win
            rate; None is the one that runs.
    """

    python: str | None = None
    name: str = "alpaca_eval_2"
    judge_model: str = "gpt-4-1106-preview"
    max_new_tokens: int = 2048
    judge_tokens: int = 1
    published_fingerprint: str | None = (
        "52f8579301eaf6419336d1bfa3af7c2c63c7c1495f9e82b0b0ee068f208b177b"
    )

    def files(self) -> list[PublishedFile]:
        """Return the baseline's answers, which hold the instructions, too."""
        return [PublishedFile(BASELINE_FILE, REPO, REVISION, BASELINE_FILE, SHA256)]

    def load(self, folder: Path) -> list[Question]:
        """Read the instructions, each with the baseline's answer."""
        file = folder / BASELINE_FILE
        return [
            Question(
                uid=str(number),
                turns=(value(row, "instruction", file),),
                category=row.get("dataset", ""),
                references={value(row, "generator", file): (value(row, "output", file),)},
            )
            for number, row in enumerate(read_rows(file))
        ]

    def temperature(self, question: Question) -> float:
        """Return 0: the authors' local models answer greedily."""
        return 0.0

    def write_answers(
        self, questions: Sequence[Question], contestant: Contestant, folder: Path
    ) -> Path:
        """Write ``model_outputs.json``, for ``alpaca_eval --model_outputs``."""
        rows = [
            {
                "dataset": q.category,
                "instruction": q.turns[0],
                "output": contestant.answers[q.uid][0],
                "generator": contestant.model,
            }
            for q in contestant.answered(questions)
        ]
        return write_json(folder / "model_outputs.json", rows)

    def read_answers(self, file: Path, questions: Sequence[Question]) -> Contestant:
        """Read a ``model_outputs.json``; rows are found by their instruction."""
        rows = read_rows(file)
        by_text = {value(r, "instruction", file): value(r, "output", file) for r in rows}
        answers = {q.uid: (by_text[q.turns[0]],) for q in questions if q.turns[0] in by_text}
        return Contestant(value(rows[0], "generator", file), answers)

    def comparisons(
        self, questions: Sequence[Question], contestant: Contestant
    ) -> list[Comparison]:
        """Return one comparison for each instruction, in an order drawn from its text.

        Equal answers are a draw, and not asked about.
        """
        found = []
        for q in contestant.answered(questions):
            outputs = (baseline_answer(q), contestant.answers[q.uid][0])
            switched = is_switched(q.turns[0])
            first, second = reversed(outputs) if switched else outputs
            request = ChatRequest(
                judge_messages(q.turns[0], first, second),
                temperature=1.0,
                max_tokens=1,
                top_logprobs=5,
            )
            same = outputs[0] == outputs[1]
            part = SAME if same else "model_first" if switched else "baseline_first"
            found.append(Comparison(q.uid, part, request, "" if same else None))
        return found

    def report(self, judged: Judged) -> Report:
        """Write ``annotations.json``, and return the win rates in percent.

        ``win_rate`` is the mean preference, ``discrete_win_rate`` the share of preferences above
        one half (draws count half), as in ``alpaca_eval.metrics.get_winrate``.
        """
        verdicts, missing = judged.verdicts, judged.missing(_preference)
        preferences = {v.comparison.uid: _preference(v) for v in verdicts}
        file = write_json(judged.folder / "annotations.json", _annotations(judged, preferences))
        wins = [p - 1 for p in preferences.values() if p is not None]
        if not wins:
            return Report((), len(verdicts), missing)
        mean, reach = fmean(wins), Z95 * standard_error(wins)
        discrete = fmean(0.5 if w == 0.5 else float(w > 0.5) for w in wins)
        plain = _percent("win_rate", "win rate", mean, reach)
        figures = [plain, Figure("discrete_win_rate", "discrete win rate", 100 * discrete)]
        whole = fingerprint(judged.questions) == self.published_fingerprint
        controlled, why_not = length_controlled_win_rate(file, whole, self.python)
        if controlled is not None:
            figures.insert(0, Figure("length_controlled_win_rate", "LC win rate", controlled))
        lengths = [len(judged.answer(v.comparison.uid)) for v in verdicts]
        figures.append(Figure("length", "characters in an answer", fmean(lengths)))
        first = [_first_wins(v, p) for v in verdicts if (p := preferences[v.comparison.uid])]
        asked = [f for f in first if f is not None]
        notes = () if why_not is None else (why_not,)
        return Report(tuple(figures), len(verdicts), missing, position_bias(asked), notes)


def baseline_answer(question: Question) -> str:
    """Return the answer that the instruction's row holds."""
    ((answer,),) = question.references.values()
    return answer


def is_switched(instruction: str) -> bool:
    """Return True if the model's answer stands first: the authors' coin, for annotator seed 0."""
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True])[0]


def judge_messages(instruction: str, first: str, second: str) -> list[dict[str, str]]:
    """Return the judge's conversation. Texts are put in at once, so that none can hold another."""
    texts = {"{instruction}": instruction, "{output_1}": first, "{output_2}": second}
    messages = []
    for part in judge_prompt("alpaca_eval.txt").split("<|im_start|>")[1:]:
        role, content = part.split("<|im_end|>")[0].split("\n", 1)
        messages.append({"role": role.strip(), "content": filled(content.strip(), texts)})
    return messages


def preferred_second(top_logprobs: dict[str, float]) -> float | None:
    """Return the probability of `SECOND` against `FIRST`; None if neither is among the tokens."""
    known = [top_logprobs[t] for t in (FIRST, SECOND) if t in top_logprobs]
    if not known:
        return None
    peak = max(known)
    weight = {t: math.exp(top_logprobs.get(t, -math.inf) - peak) for t in (FIRST, SECOND)}
    return weight[SECOND] / (weight[FIRST] + weight[SECOND])


def _preference(verdict: Verdict) -> float | None:
    """Return 1 if the baseline is preferred, 2 if the model is, and what lies between."""
    if verdict.comparison.part == SAME:
        return 1.5
    result = verdict.result
    if not isinstance(result, Answer) or not result.top_logprobs:
        return None
    second = preferred_second(result.top_logprobs[0])
    if second is None:
        return None
    return 2 - second if verdict.comparison.part == "model_first" else 1 + second


def _first_wins(verdict: Verdict, preference: float) -> float | None:
    if verdict.comparison.part == SAME:
        return None
    model_wins = preference - 1
    return model_wins if verdict.comparison.part == "model_first" else 1 - model_wins


def _percent(name: str, label: str, mean: float, reach: float) -> Figure:
    low, high = 100 * (mean - reach), 100 * (mean + reach)
    return Figure(name, label, 100 * mean, low, high, "95 %, standard error")


def _annotations(judged: Judged, preferences: Mapping[str, float | None]) -> list[dict[str, Any]]:
    return [
        {
            "index": int(q.uid),
            "dataset": q.category,
            "instruction": q.turns[0],
            "output_1": baseline_answer(q),
            "generator_1": next(iter(q.references)),
            "output_2": judged.answer(q.uid),
            "generator_2": judged.contestant.model,
            "annotator": ANNOTATOR,
            "preference": preferences[q.uid],
        }
        for q in judged.questions
        if q.uid in preferences
    ]
