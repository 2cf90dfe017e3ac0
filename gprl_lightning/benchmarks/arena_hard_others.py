"""Other models' judgements in a folder of Arena-Hard: the style control is fitted to all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gprl_lightning.benchmarks.arena_hard_scores import LABEL_SCORES, StyledBattles, battles
from gprl_lightning.benchmarks.files import one_line, read_rows, value
from gprl_lightning.benchmarks.markdown_style import CountTokens, Style, style_of

Answers = dict[str, dict[str, Any]]


def read_others(
    folder: Path, judge: str, category: str, model: str, count: CountTokens
) -> list[StyledBattles]:
    """Return the battles of each model that `judge` has judged, but for `model`.

    Args:
        folder: ``data/arena-hard-VERSION``, with ``model_judgment/JUDGE/`` and ``model_answer/``.
        judge: whose judgements are read.
        category: of the questions.
        model: whose battles we have.
        count: counts tokens, where an answer's row has no ``metadata``.

    Raises:
        ConfigError: the answers of a judged model are not there.
    """
    files = sorted((folder / "model_judgment" / one_line(judge)).glob("*.jsonl"))
    return [
        _battles(rows, folder, count)
        for file in files
        if (rows := [r for r in read_rows(file) if _counts(r, category, model, file)])
    ]


def _counts(row: dict[str, Any], category: str, model: str, file: Path) -> bool:
    """Return True for a row of the category, of another model, with a label in both games."""
    if value(row, "category", file) != category or value(row, "model", file) == model:
        return False
    return all(game and game["score"] in LABEL_SCORES for game in value(row, "games", file))


def _battles(rows: Sequence[dict[str, Any]], folder: Path, count: CountTokens) -> StyledBattles:
    models = {row[key] for row in rows for key in ("model", "baseline")}
    answers = {m: _answers(folder / "model_answer" / f"{one_line(m)}.jsonl") for m in models}
    scores, styles = [], []
    for row in rows:
        first, second = (game["score"] for game in row["games"])
        scores.append(battles(first, second))
        mine, other = (answers[row[key]][row["uid"]] for key in ("model", "baseline"))
        styles.append((_style(mine, count), _style(other, count)))
    return StyledBattles(scores, styles)


def _answers(file: Path) -> Answers:
    return {value(row, "uid", file): row for row in read_rows(file)}


def _style(row: dict[str, Any], count: CountTokens) -> Style:
    found = row.get("metadata")
    if found is None:
        return style_of(row["messages"][-1]["content"]["answer"], count)
    lists, bold = found["list_count"], found["bold_count"]
    return Style(
        tokens=found["token_len"],
        headers=tuple(found["header_count"].values()),
        lists=(lists["ordered"], lists["unordered"]),
        bold=(bold["**"], bold["__"]),
    )
