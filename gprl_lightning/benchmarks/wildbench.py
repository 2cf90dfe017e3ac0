"""WildBench v2 (arXiv 2406.04770): 1,024 conversations of real users, judged with checklists.

WB-Score grades each answer from 1 to 10; WB-Reward compares it with three other models. See
`gprl_lightning.benchmarks.wildbench_scores` for what is made of the verdicts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gprl_lightning.benchmarks import wildbench_scores as scores
from gprl_lightning.benchmarks.files import one_line, read_rows, value, write_json
from gprl_lightning.benchmarks.intervals import position_bias
from gprl_lightning.benchmarks.protocol import (
    Comparison,
    Contestant,
    Judged,
    Report,
    Verdict,
)
from gprl_lightning.benchmarks.questions import Question
from gprl_lightning.benchmarks.sources import PublishedFile
from gprl_lightning.benchmarks.wildbench_prompts import grading, pair
from gprl_lightning.benchmarks.wildbench_verdicts import judgment_row, verdict_of
from gprl_lightning.core.batch import Message
from gprl_lightning.runtime.chat import Answer

REPO, REVISION = "allenai/WildBench", "7c05c1b4550282b2ed6a2e6ac5db069f1e07df5c"
OUTPUTS = "allenai/WildBench-V2-Model-Outputs"
OUTPUTS_REVISION = "d6755bc68220df853c0825a733430f73f5af2501"
QUESTIONS = "v2/test-00000-of-00001.parquet"
REFERENCES = ("gpt-4-turbo-2024-04-09", "claude-3-haiku-20240307", "Llama-2-70b-chat-hf")
ORDER_SEED = 42  # which of two answers stands first


@dataclass(frozen=True)
class WildBench:
    """WildBench v2.

    Args:
        length_margin: K, in characters. A slight win of an answer that is longer by more than K is
            a tie. Below 0 there is no margin.
        rewards: compare with the three reference models (WB-Reward); off, only WB-Score is made,
            with a quarter of the calls.
    """

    length_margin: int = 500
    rewards: bool = True
    name: str = "wildbench"
    judge_model: str = "gpt-4o-2024-05-13"
    max_new_tokens: int = 4096
    judge_tokens: int = 400
    published_fingerprint: str | None = None

    @property
    def _references(self) -> tuple[str, ...]:
        return REFERENCES if self.rewards else ()

    def files(self) -> list[PublishedFile]:
        """Return the conversations, and the reference models' answers."""
        answers = [
            PublishedFile(_reference_file(model), OUTPUTS, OUTPUTS_REVISION, _reference_file(model))
            for model in self._references
        ]
        return [PublishedFile(QUESTIONS, REPO, REVISION, QUESTIONS), *answers]

    def load(self, folder: Path) -> list[Question]:
        """Read the conversations, each with the reference models' answers to it."""
        file = folder / QUESTIONS
        references = {
            model: {
                row["session_id"]: (_output(row),)
                for row in read_rows(folder / _reference_file(model))
            }
            for model in self._references
        }
        questions = []
        for row in read_rows(file):
            uid = value(row, "session_id", file)
            *history, last = (
                Message(role=m["role"], content=m["content"])
                for m in value(row, "conversation_input", file)
            )
            tags = [value(row, "primary_tag", file), *(row.get("secondary_tags") or [])]
            questions.append(
                Question(
                    uid=uid,
                    turns=(last["content"],),
                    category=tags[0],
                    history=tuple(history),
                    references={m: texts[uid] for m, texts in references.items() if uid in texts},
                    row={"checklist": list(value(row, "checklist", file)), "tags": tags},
                )
            )
        return questions

    def temperature(self, question: Question) -> float:
        """Return 0, as the authors' scripts do."""
        return 0.0

    def write_answers(
        self, questions: Sequence[Question], contestant: Contestant, folder: Path
    ) -> Path:
        """Write ``result_dirs/wild_bench_v2/MODEL.json``."""
        rows = [
            {
                "session_id": q.uid,
                "chat_history": [*[m["content"] for m in q.history], q.turns[0]],
                "output": [contestant.answers[q.uid][0]],
                "generator": contestant.model,
                "dataset": "wild_bench_v2",
                "primary_tag": q.category,
            }
            for q in contestant.answered(questions)
        ]
        name = one_line(contestant.model)
        return write_json(folder / "result_dirs/wild_bench_v2" / f"{name}.json", rows)

    def read_answers(self, file: Path, questions: Sequence[Question]) -> Contestant:
        """Read a file of ``result_dirs/wild_bench_v2/``."""
        rows = read_rows(file)
        texts = {value(row, "session_id", file): _output(row) for row in rows}
        answers = {q.uid: (texts[q.uid],) for q in questions if q.uid in texts}
        return Contestant(value(rows[0], "generator", file), answers)

    def comparisons(
        self, questions: Sequence[Question], contestant: Contestant
    ) -> list[Comparison]:
        """Return a grading for each answer, and a comparison with each reference model's.

        Which answer stands first is drawn once for each reference model, as in the authors' script.
        Empty answers are decided by its rules, without the judge.
        """
        found = [grading(q, contestant.answers[q.uid][0]) for q in contestant.answered(questions)]
        for model in self._references:
            coin = random.Random(ORDER_SEED)
            for q in questions:
                model_first = coin.random() < 0.5
                if q.uid in contestant.answers and model in q.references:
                    answer, other = contestant.answers[q.uid][0], q.references[model][0]
                    found.append(pair(q, model, answer, other, model_first))
        return found

    def report(self, judged: Judged) -> Report:
        """Write the gradings and the comparisons under ``eval_results/``; return the scores."""

        def read(verdict: Verdict) -> scores.Grade | scores.Outcome | None:
            question = judged.question(verdict)
            return verdict_of(question, judged.answer(question.uid), verdict)

        _write_judgments(judged)
        found = [read(v) for v in judged.verdicts]
        outcomes = [o for o in found if isinstance(o, scores.Outcome)]
        figures = scores.score_figures([g for g in found if isinstance(g, scores.Grade)])
        for model in self._references:
            own = [o for o in outcomes if o.reference == model]
            figures += scores.reward_figures(own, model, self.length_margin)
        figures += scores.mix_figures(outcomes, self._references, self.length_margin)
        asked = [o.first_wins for o in outcomes if scores.EMPTY not in (o.answer, o.other)]
        wanted, missing = len(judged.verdicts), judged.missing(read)
        return Report(tuple(figures), wanted, missing, position_bias(asked))


def _write_judgments(judged: Judged) -> None:
    files: dict[str, list[dict[str, Any]]] = {}
    for verdict in judged.verdicts:
        if isinstance(verdict.result, Answer):
            question, judge = judged.question(verdict), one_line(judged.judge)
            place, row = judgment_row(question, judged.contestant, verdict, judge)
            if row is not None:
                files.setdefault(place, []).append(row)
    for place, rows in files.items():
        write_json(judged.folder / "eval_results" / place, rows)


def _reference_file(model: str) -> str:
    return f"{model}/train-00000-of-00001.parquet"


def _output(row: dict[str, Any]) -> str:
    output = row["output"]
    return output if isinstance(output, str) else output[0]
