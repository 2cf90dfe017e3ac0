"""MT-Bench (arXiv 2306.05685): 80 questions of two turns, each answer graded from 1 to 10.

The score is the mean of all grades. Questions of maths, reasoning and coding are graded with a
reference answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from gprl_lightning.benchmarks.files import one_line, read_rows, short_id, value, write_jsonl
from gprl_lightning.benchmarks.intervals import bootstrap_interval
from gprl_lightning.benchmarks.protocol import (
    Comparison,
    Contestant,
    Figure,
    Judged,
    Report,
)
from gprl_lightning.benchmarks.questions import Question
from gprl_lightning.benchmarks.sources import PublishedFile
from gprl_lightning.runtime.chat import Answer, ChatRequest

REPO, REVISION = "lm-sys/FastChat", "587d5cfa1609a43d192cedb8441cac3c17db105d"
DATA = "fastchat/llm_judge/data"
FILES = (
    (
        "question.jsonl",
        f"{DATA}/mt_bench/question.jsonl",
        "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
    ),
    (
        "judge_prompts.jsonl",
        f"{DATA}/judge_prompts.jsonl",
        "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
    ),
    (
        "reference_answer/gpt-4.jsonl",
        f"{DATA}/mt_bench/reference_answer/gpt-4.jsonl",
        "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
    ),
)
WITH_REFERENCE = ("math", "reasoning", "coding")
TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0,
    "reasoning": 0.0, "stem": 0.1, "humanities": 0.1,
}  # fmt: skip
RATINGS = (r"\[\[(\d+\.?\d*)\]\]", r"\[(\d+\.?\d*)\]")
UNREAD = -1  # the authors' score of a judgement without a rating
JUDGES = {
    1: ("single-v1", "single-math-v1"),
    2: ("single-v1-multi-turn", "single-math-v1-multi-turn"),
}


@dataclass(frozen=True)
class MTBench:
    """MT-Bench by single-answer grading."""

    name: str = "mt_bench"
    judge_model: str = "gpt-4"
    max_new_tokens: int = 1024
    judge_tokens: int = 250
    published_fingerprint: str | None = (
        "44d37bf5a562bb09ca4d992abb9f8c4296360e73514806f9581a5ce2b59f7c19"
    )

    def files(self) -> list[PublishedFile]:
        """Return questions, judge's prompts and reference answers."""
        return [
            PublishedFile(local, REPO, REVISION, path, sha256, github=True)
            for local, path, sha256 in FILES
        ]

    def load(self, folder: Path) -> list[Question]:
        """Read the questions, with the judge's prompts for each, and the solution if it has one."""
        file = folder / "question.jsonl"
        prompts_file = folder / "judge_prompts.jsonl"
        prompts = {value(r, "name", prompts_file): r for r in read_rows(prompts_file)}
        solutions = {
            row["question_id"]: tuple(row["choices"][0]["turns"])
            for row in read_rows(folder / "reference_answer" / "gpt-4.jsonl")
        }
        questions = []
        for row in read_rows(file):
            number, category = value(row, "question_id", file), value(row, "category", file)
            hard = category in WITH_REFERENCE
            questions.append(
                Question(
                    uid=str(number),
                    turns=tuple(value(row, "turns", file)),
                    category=category,
                    references={"gpt-4": solutions[number]} if hard else {},
                    row={"prompts": {turn: prompts[JUDGES[turn][hard]] for turn in JUDGES}},
                )
            )
        return questions

    def temperature(self, question: Question) -> float:
        """Return the temperature of the question's category; 0.7 for one that is not known."""
        return TEMPERATURES.get(question.category, 0.7)

    def write_answers(
        self, questions: Sequence[Question], contestant: Contestant, folder: Path
    ) -> Path:
        """Write ``model_answer/MODEL.jsonl``."""
        rows = [
            {
                "question_id": int(q.uid),
                "answer_id": short_id(contestant.model, q.uid),
                "model_id": contestant.model,
                "choices": [{"index": 0, "turns": list(contestant.answers[q.uid])}],
                "tstamp": 0.0,
            }
            for q in contestant.answered(questions)
        ]
        name = one_line(contestant.model)
        return write_jsonl(folder / "data/mt_bench/model_answer" / f"{name}.jsonl", rows)

    def read_answers(self, file: Path, questions: Sequence[Question]) -> Contestant:
        """Read a file of ``model_answer/``."""
        rows = read_rows(file)
        wanted = {q.uid for q in questions}
        answers = {
            str(value(row, "question_id", file)): tuple(row["choices"][0]["turns"])
            for row in rows
            if str(row["question_id"]) in wanted
        }
        return Contestant(value(rows[0], "model_id", file), answers)

    def comparisons(
        self, questions: Sequence[Question], contestant: Contestant
    ) -> list[Comparison]:
        """Return one grading for each turn of each question."""
        return [
            Comparison(q.uid, f"turn_{turn}", grading(q, contestant.answers[q.uid], turn))
            for turn in JUDGES
            for q in contestant.answered(questions)
            if len(q.turns) >= turn
        ]

    def report(self, judged: Judged) -> Report:
        """Write ``model_judgment/JUDGE_single.jsonl``, and return the mean grades.

        The interval is a bootstrap over questions, and ours: the authors give none.
        """
        self._write_judgments(judged)
        wanted, missing = len(judged.verdicts), judged.missing(lambda v: rating(v.text))
        found = [(v, r) for v in judged.verdicts if (r := rating(v.text)) is not None]
        if not found:
            return Report((), wanted, missing)
        by_question: dict[str, list[float]] = {}
        for verdict, grade in found:
            by_question.setdefault(verdict.comparison.uid, []).append(grade)
        low, high = bootstrap_interval(list(by_question.values()))
        interval = "95 %, bootstrap over questions (ours)"
        figures = [Figure("score", "score", fmean(r for _, r in found), low, high, interval)]
        figures += _means([(v.comparison.part, r) for v, r in found])
        figures += _means([(judged.question(v).category, r) for v, r in found])
        return Report(tuple(figures), wanted, missing)

    def _write_judgments(self, judged: Judged) -> None:
        rows = []
        for verdict in judged.verdicts:
            if not isinstance(verdict.result, Answer):
                continue
            comparison, prompts = verdict.comparison, judged.question(verdict).row["prompts"]
            turn, grade = int(comparison.part.removeprefix("turn_")), rating(verdict.text)
            rows.append(
                {
                    "question_id": int(comparison.uid),
                    "model": judged.contestant.model,
                    "judge": [judged.judge, prompts[turn]["name"]],
                    "user_prompt": comparison.request.messages[-1]["content"],
                    "judgment": verdict.text,
                    "score": UNREAD if grade is None else grade,
                    "turn": turn,
                    "tstamp": 0.0,
                }
            )
        place = judged.folder / "data/mt_bench/model_judgment"
        write_jsonl(place / f"{one_line(judged.judge)}_single.jsonl", rows)


def grading(question: Question, answers: Sequence[str], turn: int) -> ChatRequest:
    """Return the request that grades the answer to one turn."""
    prompt: dict[str, Any] = question.row["prompts"][turn]
    texts = {"question": question.turns[0], "answer": answers[0]}
    if turn == 2:
        texts = {
            "question_1": question.turns[0],
            "question_2": question.turns[1],
            "answer_1": answers[0],
            "answer_2": answers[1],
        }
    for solution in question.references.values():
        texts |= {f"ref_answer_{i}": text for i, text in enumerate(solution, 1)}
    messages = [
        {"role": "system", "content": prompt["system_prompt"]},
        {"role": "user", "content": prompt["prompt_template"].format(**texts)},
    ]
    return ChatRequest(messages, temperature=0.0, max_tokens=2048)


def rating(text: str | None) -> float | None:
    """Return the first rating of a judgement, in double brackets before single ones."""
    for pattern in RATINGS:
        match = re.search(pattern, text or "")
        if match:
            return float(match[1])
    return None


def _means(grades: Sequence[tuple[str, float]]) -> list[Figure]:
    """Return the mean grade of each group; `grades` are (group, grade)."""
    names = sorted({name for name, _ in grades})
    return [
        Figure(
            f"score_{name}",
            name.replace("_", " "),
            fmean(grade for group, grade in grades if group == name),
        )
        for name in names
    ]
