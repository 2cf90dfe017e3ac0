"""Arena-Hard v0.1 and v2 (arXiv 2406.11939): hard prompts against a baseline, in both orders.

The judge writes one of five labels. Each question is judged twice, the baseline first and the model
first. See `gprl_lightning.benchmarks.arena_hard_scores` for what is made of the labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from gprl_lightning.benchmarks import arena_hard_scores as scores
from gprl_lightning.benchmarks.arena_hard_figures import style_figure, win_rate_figure
from gprl_lightning.benchmarks.arena_hard_files import published_files
from gprl_lightning.benchmarks.arena_hard_labels import (
    ORDERS,
    disagreement,
    game_row,
    games_of,
    label_of,
    labels_of,
)
from gprl_lightning.benchmarks.arena_hard_others import read_others
from gprl_lightning.benchmarks.arena_hard_scores import StyledBattles
from gprl_lightning.benchmarks.files import (
    filled,
    judge_prompt,
    one_line,
    read_rows,
    short_id,
    value,
    write_jsonl,
)
from gprl_lightning.benchmarks.intervals import position_bias
from gprl_lightning.benchmarks.markdown_style import CountTokens, Style, style_of, token_counter
from gprl_lightning.benchmarks.protocol import (
    Comparison,
    Contestant,
    Figure,
    Judged,
    Report,
    Verdict,
)
from gprl_lightning.benchmarks.questions import Question
from gprl_lightning.benchmarks.sources import PublishedFile
from gprl_lightning.runtime.chat import ChatRequest

BASELINES = {
    "arena-hard-v0.1": "gpt-4-0314",
    "hard_prompt": "o3-mini-2025-01-31",
    "creative_writing": "gemini-2.0-flash-001",
}
CATEGORIES = {"v0.1": ("arena-hard-v0.1",), "v2.0": ("hard_prompt", "creative_writing")}
ALONE = (
    "Style control is fitted to this model's battles alone; the leaderboard's is fitted to all its "
    "models at once. Give benchmark.options.others=FOLDER with their judgements by this judge."
)


@dataclass(frozen=True)
class ArenaHard:
    """Arena-Hard; `version` is ``v0.1`` or ``v2.0``. Judge settings are those of its config.

    `others` is a folder laid out as the authors' repository: the judgements in it, by the same
    judge, are fitted together with the model's for the style control.
    """

    version: Literal["v0.1", "v2.0"]
    judge_model: str
    judge_max_tokens: int
    published_fingerprint: str | None = None
    max_new_tokens: int = 4096
    judge_tokens: int = 600
    others: str | None = None

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return f"arena_hard_{'v2' if self.version == 'v2.0' else 'v0_1'}"

    @property
    def _folder(self) -> str:
        return f"data/arena-hard-{self.version}"

    def files(self) -> list[PublishedFile]:
        """Return the questions and the baselines' answers."""
        return published_files(self.version)

    def load(self, folder: Path) -> list[Question]:
        """Read the questions, each with the answer of its category's baseline."""
        file = folder / self._folder / "question.jsonl"
        baselines = {
            name: self._texts(folder / self._folder / "model_answer" / f"{name}.jsonl")
            for name in (BASELINES[c] for c in CATEGORIES[self.version])
        }
        questions = []
        for row in read_rows(file):
            category, uid = value(row, "category", file), value(row, "uid", file)
            baseline = BASELINES[category]
            if uid in baselines[baseline]:
                references = {baseline: (baselines[baseline][uid],)}
                prompt = value(row, "prompt", file)
                questions.append(Question(uid, (prompt,), category, references=references))
        return questions

    def _texts(self, file: Path) -> dict[str, str]:
        """Return the answers of a file by uid."""
        return {
            value(row, "uid", file): row["messages"][-1]["content"]["answer"]
            for row in read_rows(file)
        }

    def temperature(self, question: Question) -> float:
        """Return 0, as the authors' configuration says."""
        return 0.0

    def write_answers(
        self, questions: Sequence[Question], contestant: Contestant, folder: Path
    ) -> Path:
        """Write ``model_answer/MODEL.jsonl``, with the style counts if tokens can be counted."""
        count, _ = token_counter()
        rows = []
        for q in contestant.answered(questions):
            text = contestant.answers[q.uid][0]
            row: dict[str, Any] = {
                "uid": q.uid,
                "ans_id": short_id(contestant.model, q.uid),
                "model": contestant.model,
                "messages": [
                    {"role": "user", "content": q.turns[0]},
                    {"role": "assistant", "content": {"answer": text}},
                ],
                "tstamp": 0.0,
            }
            if count is not None:
                row["metadata"] = style_of(text, count).metadata()
            rows.append(row)
        name = one_line(contestant.model)
        return write_jsonl(folder / self._folder / "model_answer" / f"{name}.jsonl", rows)

    def read_answers(self, file: Path, questions: Sequence[Question]) -> Contestant:
        """Read a file of ``model_answer/``."""
        rows = read_rows(file)
        texts = self._texts(file)
        answers = {q.uid: (texts[q.uid],) for q in questions if q.uid in texts}
        return Contestant(value(rows[0], "model", file), answers)

    def comparisons(
        self, questions: Sequence[Question], contestant: Contestant
    ) -> list[Comparison]:
        """Return two comparisons for each question, one in each order."""
        return [
            Comparison(q.uid, order, self._request(q, contestant.answers[q.uid][0], order))
            for q in contestant.answered(questions)
            for order in ORDERS
        ]

    def _request(self, question: Question, answer: str, order: str) -> ChatRequest:
        ((baseline,),) = question.references.values()
        first, second = (baseline, answer) if order == "baseline_first" else (answer, baseline)
        texts = {"{QUESTION}": question.turns[0], "{ANSWER_A}": first, "{ANSWER_B}": second}
        user = filled(judge_prompt("arena_hard_user.txt"), texts)
        creative = question.category == "creative_writing"
        system = judge_prompt("arena_hard_creative.txt" if creative else "arena_hard.txt")
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return ChatRequest(messages, temperature=0.0, max_tokens=self.judge_max_tokens)

    def report(self, judged: Judged) -> Report:
        """Write ``model_judgment/JUDGE/MODEL.jsonl``, and return the win rates by category.

        A question of which one game has no label is left out whole, as in the authors' script.
        """
        games = games_of(judged.verdicts)
        self._write_judgments(judged, games)
        pairs = {uid: pair for uid, game in games.items() if (pair := labels_of(game)) is not None}
        figures: list[Figure] = []
        for category in CATEGORIES[self.version]:
            of_category = [q for q in judged.questions if q.category == category and q.uid in pairs]
            if of_category:
                figures += self._figures(judged, category, of_category, pairs)
        _, why_not = token_counter()
        notes = [why_not or ALONE] if why_not is not None or self.others is None else []
        if pairs:
            notes.append(disagreement(list(pairs.values())))
        if figures:
            lengths = [len(a[0]) for a in judged.contestant.answers.values()]
            figures.append(Figure("length", "characters in an answer", fmean(lengths)))
        bias = position_bias([fmean(map(scores.first_wins, p)) for p in pairs.values()])
        missing = judged.missing(lambda v: label_of(v.text))
        return Report(tuple(figures), len(judged.verdicts), missing, bias, tuple(notes))

    def _figures(
        self,
        judged: Judged,
        category: str,
        questions: Sequence[Question],
        pairs: Mapping[str, tuple[str, str]],
    ) -> list[Figure]:
        """Return the win rate of one category and, if tokens can be counted, at equal style."""
        battles = [scores.battles(*pairs[q.uid]) for q in questions]
        figures = [win_rate_figure(self.version, category, battles)]
        count, _ = token_counter()
        if count is not None:
            styles = [_styles(q, judged.answer(q.uid), count) for q in questions]
            others = self._others(judged, category, count)
            own = StyledBattles(battles, styles)
            figures.append(style_figure(self.version, category, own, others))
        return figures

    def _others(self, judged: Judged, category: str, count: CountTokens) -> list[StyledBattles]:
        if self.others is None:
            return []
        place = Path(self.others) / self._folder
        return read_others(place, judged.judge, category, judged.contestant.model, count)

    def _write_judgments(self, judged: Judged, games: Mapping[str, Mapping[str, Verdict]]) -> None:
        rows = [
            {
                "uid": q.uid,
                "category": q.category,
                "judge": judged.judge,
                "model": judged.contestant.model,
                "baseline": next(iter(q.references)),
                "games": [game_row(games[q.uid][order]) for order in ORDERS],
            }
            for q in judged.questions
            if q.uid in games
        ]
        place = judged.folder / self._folder / "model_judgment" / one_line(judged.judge)
        write_jsonl(place / f"{one_line(judged.contestant.model)}.jsonl", rows)


def _styles(question: Question, answer: str, count: CountTokens) -> tuple[Style, Style]:
    """Return the style of the model's answer and of the baseline's."""
    ((baseline,),) = question.references.values()
    return style_of(answer, count), style_of(baseline, count)
