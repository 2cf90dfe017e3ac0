"""Responses with ratings, one to a row (HelpSteer2): those of one prompt in turn become one row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

RATED = "rated"  # in a joined row: the rows of the responses


def with_ratings_joined(rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Return rows with their places, where rated responses to one prompt, one after another, are
    one row. A prompt with a single response gives no pair, and is left out."""
    where, held = "", []
    for place, row in rows:
        if held and (not _is_rated(row) or row["prompt"] != held[0]["prompt"]):
            yield from _joined(where, held)
            held = []
        if _is_rated(row):
            where = where if held else place
            held.append(row)
        else:
            yield place, row
    yield from _joined(where, held)


def ratings_of(row: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a response by column."""
    numbers = {k: v for k, v in row.items() if isinstance(v, (int, float))}
    return {k: float(v) for k, v in numbers.items() if not isinstance(v, bool)}


def _joined(where: str, held: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    if len(held) > 1:
        same = {k: v for k, v in held[0].items() if all(row.get(k) == v for row in held)}
        yield where, {**same, "prompt": held[0]["prompt"], RATED: held}


def _is_rated(row: Any) -> bool:
    texts = ("prompt", "response")
    return isinstance(row, dict) and all(isinstance(row.get(name), str) for name in texts)
