"""What WildBench's judge is shown: the authors' templates, filled."""

from __future__ import annotations

import json

from gprl_lightning.benchmarks.files import filled, judge_prompt
from gprl_lightning.benchmarks.protocol import Comparison
from gprl_lightning.benchmarks.questions import Question
from gprl_lightning.benchmarks.wildbench_scores import CUT, EMPTY
from gprl_lightning.runtime.chat import ChatRequest

MAX_WORDS = 1000  # of each text that the judge is shown


def shown(answer: str) -> str:
    """Return an answer as the judge sees it: its first 1,000 words, or a note that it is empty."""
    return shortened(answer) if answer.strip() else EMPTY


def shortened(text: str) -> str:
    words = text.split(" ")
    return text if len(words) <= MAX_WORDS else " ".join(words[:MAX_WORDS]) + CUT


def kept(answer: str) -> str:
    """Return an answer as the authors' files keep it: as shown, without the spaces around it."""
    return shown(answer).strip()


def _request(template: str, question: Question, **texts: str) -> ChatRequest:
    history = "".join(f"{m['role'].upper()}: {m['content']}\n\n" for m in question.history)
    fields = {
        "history": shortened(history),
        "user_query": shortened(question.turns[0]),
        "checklist": "".join(f"- {item}\n" for item in question.row["checklist"]),
        **texts,
    }
    named = {f"{{${name}}}": text for name, text in fields.items()}
    prompt = filled(judge_prompt(template), named)
    messages = [{"role": "user", "content": prompt}]
    form = {"response_format": {"type": "json_object"}}
    return ChatRequest(messages, temperature=0.0, max_tokens=1024, extra=form)


def grading(question: Question, answer: str) -> Comparison:
    request = _request("wildbench_score.md", question, model_output=shortened(answer))
    decided = None if answer.strip() else json.dumps({"score": "1"})
    return Comparison(question.uid, "score", request, decided)


def pair(question: Question, model: str, answer: str, other: str, model_first: bool) -> Comparison:
    first, second = (answer, other) if model_first else (other, answer)
    request = _request(
        "wildbench_pairwise.md", question, candidate_A=shown(first), candidate_B=shown(second)
    )
    decided = None
    if not first.strip() or not second.strip():
        choice = "B++" if second.strip() else "A++" if first.strip() else "A=B"
        decided = json.dumps({"choice": choice})
    order = "model_first" if model_first else "reference_first"
    return Comparison(question.uid, f"{order}/{model}", request, decided)
