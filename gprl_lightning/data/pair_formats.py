"""Preference data as people have it, brought to one form of row.

| format | row |
|---|---|
| texts | ``{"prompt": text, "chosen": text, "rejected": text}`` (TRL; RewardBench) |
| chat | ``{"prompt": [messages], "chosen": [messages], "rejected": [messages]}`` (TRL) |
| conversations | ``{"chosen": [messages], "rejected": [messages]}`` (TRL; UltraFeedback, Skywork) |
| dialogue | ``{"chosen": "\\n\\nHuman: …\\n\\nAssistant: …", "rejected": …}`` (hh-rlhf) |
| continuations | ``{"chosen": text, "rejected": text}``: the prompt is what they share (TRL) |
| best of n | ``{"prompt": text, "chosen": [texts], "rejected": [texts]}`` (RewardBench 2) |
| strengths | ``{"prompt", "response_1", "response_2", "preference_strength"}`` (HelpSteer2) |
| ratings | ``{"prompt", "response", "helpfulness": 3, …}``, rows of a prompt in turn (HelpSteer2) |

The format is told by the row. What the row says of certainty is read only where it is named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from gprl_lightning.data.ratings import RATED, ratings_of
from gprl_lightning.data.rows import shown
from gprl_lightning.errors import ConfigError

Row = dict[str, Any]
STRENGTHS = ("prompt", "response_1", "response_2", "preference_strength")
TURN = re.compile(r"\n\n(Human|Assistant):")
ROLE_OF = {"Human": "user", "Assistant": "assistant"}
# Marks between the turns of a prompt in HelpSteer2, as its model was trained with.
HELPSTEER_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


@dataclass(frozen=True)
class PairKeys:
    """Names of the columns. None: not read, even if the data has one of that name.

    Attributes:
        chosen: the better answer, or the conversation with it.
        rejected: the worse one.
        prompt: what comes before them, where they do not hold it.
        label: probability that the chosen one is better.
        margin: by how much, in units of the score.
        subset: what the pair belongs to, for reports; None: ``subset``, else ``source``.
        rating: of rated responses, the rating that says which is the better one.
    """

    chosen: str = "chosen"
    rejected: str = "rejected"
    prompt: str = "prompt"
    label: str | None = None
    margin: str | None = None
    subset: str | None = None
    rating: str = "helpfulness"


def canonical_rows(row: Any, where: str, keys: PairKeys) -> tuple[str, list[Row]]:
    """Return the name of a row's format, and its pairs as rows of conversations.

    Each has ``chosen`` and ``rejected`` (lists of messages), and what the data set says besides
    (``group``, ``subset``, ``source``, ``attributes``, and ``label`` and ``margin`` if named).

    Raises:
        ConfigError: what the row at ``where`` has, and what was expected.
    """
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: expected an object with columns, found {type(row).__name__}.")
    rest = {k: row[k] for k in ("group", "subset", "source", "attributes") if k in row}
    for name, key in (("label", keys.label), ("margin", keys.margin), ("subset", keys.subset)):
        if key is not None:
            if key not in row:
                raise ConfigError(
                    f"{where}: expected the column {key!r} of data.{name}_key; found "
                    f"{shown(sorted(row))}. Correct data.{name}_key, or leave it out."
                )
            rest[name] = row[key]
    if keys.chosen in row and keys.rejected in row:
        kind, sides = _sides(row, where, keys)
        return kind, [{"chosen": a, "rejected": b, **rest} for a, b in sides]
    if set(STRENGTHS) <= set(row):
        return "strengths", [{**_by_strength(row, where), **rest}]
    if RATED in row:
        return "ratings", [{**pair, **rest} for pair in _by_ratings(row, where, keys)]
    raise ConfigError(
        f"{where}: expected the keys {keys.chosen!r} and {keys.rejected!r}, found "
        f"{shown(sorted(row))}. If these are pairs, let data.chosen_key and data.rejected_key name "
        "other columns."
    )


def _sides(row: Row, where: str, keys: PairKeys) -> tuple[str, list[tuple[Any, Any]]]:
    chosen, rejected, prompt = row[keys.chosen], row[keys.rejected], row.get(keys.prompt)
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is not None:
            before = messages_of(prompt)
            return "texts", [(_said(before, chosen), _said(before, rejected))]
        if TURN.match(chosen) and TURN.match(rejected):
            return "dialogue", [(_dialogue(chosen, where), _dialogue(rejected, where))]
        return "continuations", [_continuations(chosen, rejected, where, keys)]
    if _texts(chosen) and _texts(rejected):
        if prompt is None:
            raise ConfigError(
                f"{where}: expected {keys.prompt!r} beside lists of answers; found "
                f"{shown(sorted(row))}."
            )
        before = messages_of(prompt)
        pairs = product(chosen, rejected)
        return "best of n", [(_said(before, a), _said(before, b)) for a, b in pairs]
    if prompt is None:
        return "conversations", [(chosen, rejected)]
    before = messages_of(prompt)
    whole = not any(map(_alone, (chosen, rejected))) and not isinstance(chosen, str)
    name = "conversations" if isinstance(prompt, str) and whole else "chat"
    return name, [(_behind(before, chosen), _behind(before, rejected))]


def _behind(before: list[Any], side: Any) -> Any:
    """A side with its prompt before it, unless it holds it already."""
    if isinstance(side, str):
        return _said(before, side)
    if _alone(side) and not _starts(side, before):
        return [*before, *side]
    return side


def messages_of(prompt: Any) -> list[Any]:
    """Return a prompt as chat messages: a text, one with HelpSteer2's marks, or messages."""
    if not isinstance(prompt, str):
        return [*prompt] if isinstance(prompt, Sequence) else [prompt]
    parts = HELPSTEER_TURN.split(prompt)
    messages = [{"role": "user", "content": parts[0]}]
    for who, text in zip(parts[1::2], parts[2::2], strict=True):
        messages.append({"role": who.lower(), "content": text})
    return messages


def _said(before: Sequence[Any], answer: str) -> list[Any]:
    return [*before, {"role": "assistant", "content": answer}]


def _texts(value: Any) -> bool:
    listed = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    return listed and all(isinstance(item, str) for item in value)


def _alone(value: Any) -> bool:
    """Whether it is an answer by itself: one message of the assistant."""
    return (
        isinstance(value, Sequence)
        and len(value) == 1
        and isinstance(value[0], Mapping)
        and value[0].get("role") == "assistant"
    )


def _starts(value: Any, before: Sequence[Any]) -> bool:
    """Whether a conversation holds its prompt already."""
    return isinstance(value, Sequence) and list(value[: len(before)]) == list(before)


def _dialogue(text: str, where: str) -> list[Row]:
    """The turns of hh-rlhf's text."""
    parts = TURN.split(text)
    turns = [
        {"role": ROLE_OF[who], "content": said.strip()}
        for who, said in zip(parts[1::2], parts[2::2], strict=True)
    ]
    if not turns or turns[-1]["role"] != "assistant":
        raise ConfigError(
            f"{where}: expected a dialogue that ends with 'Assistant:'; found {text[-60:]!r}."
        )
    return turns


def _continuations(chosen: str, rejected: str, where: str, keys: PairKeys) -> tuple[Any, Any]:
    """Both texts behind the words that they begin with in common."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    cut = max(chosen.rfind(" ", 0, shared), chosen.rfind("\n", 0, shared)) + 1
    prompt = chosen[:cut].rstrip()
    if not prompt:
        raise ConfigError(
            f"{where}: {keys.chosen!r} must be chat messages that end with the assistant, or a "
            f"text beside {keys.prompt!r}, or begin as {keys.rejected!r} does; found "
            f"{chosen[:80]!r}."
        )
    before = messages_of(prompt)
    return _said(before, chosen[cut:]), _said(before, rejected[cut:])


def _by_ratings(row: Row, where: str, keys: PairKeys) -> list[Row]:
    """Every two responses to a prompt: which is better by ``keys.rating``, who has more of what."""
    before, pairs = messages_of(row["prompt"]), []
    for first, second in combinations(row[RATED], 2):
        ratings = [ratings_of(side) for side in (first, second)]
        if not all(keys.rating in side for side in ratings):
            raise ConfigError(
                f"{where}: expected a number in the column {keys.rating!r} of rated responses; "
                f"found numbers in {shown(sorted(ratings[0]))}. Set data.rating_key to one of "
                "these."
            )
        if ratings[1][keys.rating] > ratings[0][keys.rating]:
            first, second, ratings = second, first, ratings[::-1]
        high, low = ratings
        more = {n: (1 + (high[n] > low[n]) - (high[n] < low[n])) / 2 for n in high if n in low}
        pairs.append(
            {
                "chosen": _said(before, first["response"]),
                "rejected": _said(before, second["response"]),
                "label": more[keys.rating],
                "attributes": more,
            }
        )
    return pairs


def _by_strength(row: Row, where: str) -> Row:
    """HelpSteer2: −3 says that the first response is much better, 3 the second; 0 is a tie."""
    strength = row["preference_strength"]
    whole = isinstance(strength, int) and not isinstance(strength, bool)
    if not whole or not -3 <= strength <= 3:
        raise ConfigError(
            f"{where}: expected 'preference_strength' from -3 to 3; found {shown(strength)}."
        )
    before = messages_of(row["prompt"])
    first, second = (_said(before, row[key]) for key in ("response_1", "response_2"))
    chosen, rejected = (second, first) if strength > 0 else (first, second)
    return {"chosen": chosen, "rejected": rejected, "label": 1.0 if strength else 0.5}
