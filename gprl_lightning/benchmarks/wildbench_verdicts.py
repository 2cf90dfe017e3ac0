"""What WildBench's judge said: a grade or a choice in JSON, and its row in the authors' files."""

from __future__ import annotations

import json
import re
from typing import Any

from gprl_lightning.benchmarks.files import one_line
from gprl_lightning.benchmarks.protocol import Contestant, Verdict
from gprl_lightning.benchmarks.questions import Question
from gprl_lightning.benchmarks.wildbench_prompts import kept, shortened
from gprl_lightning.benchmarks.wildbench_scores import Grade, Outcome

CHOICES = ("A++", "A+", "A=B", "B+", "B++")


def parsed(text: str, key: str) -> str | None:
    """Return a field of the judge's JSON; of broken JSON, what stands behind the field's name."""
    try:
        found = json.loads(text.strip())
        return str(found[key]) if isinstance(found, dict) and key in found else None
    except ValueError:
        match = re.search(rf'"{key}"\s*:\s*"([^"]*?)"', text)
        return match[1] if match else None


def grade_of(text: str | None) -> float | None:
    found = None if text is None else parsed(text, "score")
    try:
        return None if found is None else float(found)
    except ValueError:
        return None


def verdict_of(question: Question, answer: str, verdict: Verdict) -> Grade | Outcome | None:
    """Return what a verdict says of an answer; None if it makes no sense."""
    if verdict.comparison.part != "score":
        return outcome_of(question, answer, verdict)
    grade = grade_of(verdict.text)
    return None if grade is None else Grade(question.row["tags"], kept(answer), grade)


def outcome_of(question: Question, answer: str, verdict: Verdict) -> Outcome | None:
    choice = None if verdict.text is None else parsed(verdict.text, "choice")
    if choice not in CHOICES:
        return None
    order, model = verdict.comparison.part.split("/", 1)
    for_first = 2 - CHOICES.index(choice)  # 2 much better, … -2 much worse
    return Outcome(
        reference=model,
        tags=question.row["tags"],
        answer=kept(answer),
        other=kept(question.references[model][0]),
        extent=for_first if order == "model_first" else -for_first,
        model_first=order == "model_first",
    )


def judgment_row(
    question: Question, contestant: Contestant, verdict: Verdict, judge: str
) -> tuple[str, dict[str, Any] | None]:
    """Return a verdict's file under ``eval_results/``, and its row; no row if it makes no sense."""
    text, name = verdict.text or "", one_line(contestant.model)
    answer = contestant.answers[question.uid][0]
    if verdict.comparison.part == "score":
        place = f"v2.0625/score.v2/eval={judge}/{name}.json"
        if grade_of(text) is None:
            return place, None
        row = {
            "session_id": question.uid,
            "parsed_result": {"score": parsed(text, "score")},
            "model_test": contestant.model,
            "score": parsed(text, "score"),
            "model_output": shortened(answer).strip(),
            "result": text,
        }
        return place, row
    outcome = outcome_of(question, answer, verdict)
    model = verdict.comparison.part.split("/", 1)[1]
    place = f"v2.0522/pairwise.v2/eval={judge}/ref={model}/{name}.json"
    if outcome is None:
        return place, None
    names = [contestant.model, model] if outcome.model_first else [model, contestant.model]
    winner = contestant.model if outcome.extent > 0 else model
    return place, {
        "session_id": question.uid,
        "parsed_result": {"choice": parsed(text, "choice")},
        "model_A": names[0],
        "model_B": names[1],
        "winner": winner if outcome.extent else "tie",
        "extent": abs(outcome.extent),
        "model_outputs": {contestant.model: outcome.answer, model: outcome.other},
        "result": text,
    }
