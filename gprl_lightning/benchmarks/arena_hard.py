"""Arena-Hard v0.1 and v2 (arXiv 2406.11939): hard prompts against a baseline, in both orders.

The judge writes one of five labels. Each question is judged twice, the baseline first and the model
first. See `gprl_lightning.benchmarks.arena_hard_scores` for what is made of the labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from gprl_lightning.benchmarks import arena_hard_scores as scores
from gprl_lightning.benchmarks.arena_hard_figures import style_figure, win_rate_figure
from gprl_lightning.benchmarks.arena_hard_labels import disagreement, game_row, games_of, label_of
from gprl_lightning.benchmarks.arena_hard_others import read_others
from gprl_lightning.benchmarks.arena_hard_scores import StyledBattles
from gprl_lightning.benchmarks.files import (
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
    Report,
    Verdict,
    missing_by_reason,
)
from gprl_lightning.benchmarks.questions import Question
from gprl_lightning.benchmarks.sources import PublishedFile
from gprl_lightning.runtime.chat import ChatRequest

REPO, REVISION = "lmarena-ai/arena-hard-auto", "15f3746e21432264ce9b453999bde4f3c946d2e6"
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
ORDERS = ("baseline_first", "model_first")


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
        names = ["question.jsonl"] + [
            f"model_answer/{BASELINES[c]}.jsonl" for c in CATEGORIES[self.version]
        ]
        paths = [f"{self._folder}/{name}" for name in names]
        return [PublishedFile(path, REPO, REVISION, path) for path in paths]

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
        for q in questions:
            if q.uid not in contestant.answers:
                continue
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
            for q in questions
            if q.uid in contestant.answers
            for order in ORDERS
        ]

    def _request(self, question: Question, answer: str, order: str) -> ChatRequest:
        ((baseline,),) = question.references.values()
        first, second = (baseline, answer) if order == "baseline_first" else (answer, baseline)
        texts = {"{QUESTION}": question.turns[0], "{ANSWER_A}": first, "{ANSWER_B}": second}
        user = re.sub(
            r"\{QUESTION\}|\{ANSWER_[AB]\}",
            lambda m: texts[m[0]],
            judge_prompt("arena_hard_user.txt"),
        )
        creative = question.category == "creative_writing"
        system = judge_prompt("arena_hard_creative.txt" if creative else "arena_hard.txt")
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return ChatRequest(messages, temperature=0.0, max_tokens=self.judge_max_tokens)

    def report(
        self,
        questions: Sequence[Question],
        contestant: Contestant,
        verdicts: Sequence[Verdict],
        judge: str,
        folder: Path,
    ) -> Report:
        """Write ``model_judgment/JUDGE/MODEL.jsonl``, and return the win rates by category.

        A question of which one game has no label is left out whole, as in the authors' script.
        """
        games = games_of(verdicts)
        self._write_judgments(questions, contestant, games, judge, folder)
        known = {q.uid: q for q in questions}
        labels = {
            uid: tuple(label_of(game[order].text) for order in ORDERS)
            for uid, game in games.items()
        }
        unread = [
            game[order]
            for game in games.values()
            for order in ORDERS
            if game[order].text is not None and label_of(game[order].text) is None
        ]
        figures: list[Figure] = []
        notes = []
        count, why_not = token_counter()
        for category in CATEGORIES[self.version]:
            pairs = {
                uid: (first, second)
                for uid, (first, second) in labels.items()
                if known[uid].category == category and first is not None and second is not None
            }
            if not pairs:
                continue
            battles = [scores.battles(*pair) for pair in pairs.values()]
            figures.append(win_rate_figure(self.version, category, battles))
            if count is not None:
                styles = [_styles(known[uid], contestant, count) for uid in pairs]
                others = self._others(judge, category, contestant.model)
                own = StyledBattles(battles, styles)
                figures.append(style_figure(self.version, category, own, others))
        if why_not is not None or self.others is None:
            notes.append(why_not or ALONE)
        missing = missing_by_reason(verdicts, unread)
        both = [p for p in labels.values() if p[0] is not None and p[1] is not None]
        bias = position_bias([fmean(map(scores.first_wins, p)) for p in both])
        if both:
            notes.append(disagreement(both))
        if figures and contestant.answers:
            lengths = [len(a[0]) for a in contestant.answers.values()]
            figures.append(Figure("length", "characters in an answer", fmean(lengths)))
        return Report(tuple(figures), len(verdicts), missing, bias, tuple(notes))

    def _others(self, judge: str, category: str, model: str) -> list[StyledBattles]:
        count, _ = token_counter()
        if self.others is None or count is None:
            return []
        return read_others(Path(self.others) / self._folder, judge, category, model, count)

    def _write_judgments(
        self,
        questions: Sequence[Question],
        contestant: Contestant,
        games: Mapping[str, Mapping[str, Verdict]],
        judge: str,
        folder: Path,
    ) -> None:
        rows = [
            {
                "uid": q.uid,
                "category": q.category,
                "judge": judge,
                "model": contestant.model,
                "baseline": next(iter(q.references)),
                "games": [game_row(games[q.uid][order]) for order in ORDERS],
            }
            for q in questions
            if q.uid in games
        ]
        place = folder / self._folder / "model_judgment" / one_line(judge)
        write_jsonl(place / f"{one_line(contestant.model)}.jsonl", rows)


def _styles(question: Question, contestant: Contestant, count: CountTokens) -> tuple[Style, Style]:
    """Return the style of the model's answer and of the baseline's."""
    ((baseline,),) = question.references.values()
    return style_of(contestant.answers[question.uid][0], count), style_of(baseline, count)
