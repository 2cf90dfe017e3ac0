"""Pairs of answers with a label: read from JSONL, parquet or the hub, and split.

`data.pair_formats` knows the forms that a row may have. Optional are ``group`` (pairs that must
stay in one batch and in one split, as the three pairs of a cycle), ``subset`` or ``source`` (for
reports) and ``attributes`` (by name, the probability that the chosen one has more of it); if named
(``data.label_key``, ``data.margin_key``) a label (probability that the chosen one is better, else
1) and a margin (in units of the score, else 0).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gprl_lightning.core.batch import Messages
from gprl_lightning.data.messages import checked_messages, has_blank_turn
from gprl_lightning.data.pair_formats import PairKeys, canonical_rows
from gprl_lightning.data.ratings import with_ratings_joined
from gprl_lightning.data.rows import require_some, rows_of, shown
from gprl_lightning.errors import ConfigError

FIX = "Correct or drop the row, or set another path."
LARGEST_MARGIN = 1e6  # in units of the score


@dataclass(frozen=True)
class PreferencePair:
    """Two conversations, of which ``chosen`` is the better one with probability ``label``."""

    chosen: Messages
    rejected: Messages
    label: float = 1.0
    margin: float = 0.0
    group: str = ""
    subset: str = ""
    attributes: Mapping[str, float] = field(default_factory=dict)

    @property
    def prompt(self) -> Messages:
        """The conversation before the answer."""
        return self.chosen[:-1]

    @property
    def answers(self) -> tuple[str, str]:
        """The chosen and the rejected answer."""
        return self.chosen[-1]["content"], self.rejected[-1]["content"]


def make_pair(prompt: str | Messages, chosen: str, rejected: str, **fields: Any) -> PreferencePair:
    """Return a pair of answers to one prompt; ``fields`` are the other fields of
    `PreferencePair`."""
    head: Messages = (
        ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
    )
    first: Messages = (*head, {"role": "assistant", "content": chosen})
    second: Messages = (*head, {"role": "assistant", "content": rejected})
    return PreferencePair(first, second, **fields)


@dataclass(frozen=True)
class ReadPairs:
    """The pairs of a data set, and what reading it found.

    Attributes:
        pairs: in the data's order.
        formats: how many rows had which form.
        alike: pairs of two equal answers, which are left out.
        blank: pairs with a user's or system message of no words, which are left out.
        unread: columns that would say how certain a pair is, and that no key names.
    """

    pairs: list[PreferencePair]
    formats: Counter[str]
    alike: int
    blank: int
    unread: tuple[str, ...]

    def notes(self) -> list[str]:
        """Return what a person should know of it, in sentences."""
        rows = sum(self.formats.values())
        forms = ", ".join(f"{n} {name}" for name, n in self.formats.items())
        found = [f"{len(self.pairs)} pairs of {rows} rows ({forms})"]
        if self.alike:
            share = self.alike / max(rows, 1)
            found.append(f"{self.alike} ({share:.1%}) left out: both answers are the same")
        if self.blank:
            share = self.blank / max(rows, 1)
            found.append(f"{self.blank} ({share:.1%}) left out: a blank message in the prompt")
        found += [
            f"the column {name!r} is not read: name it with data.{name}_key if it is meant"
            for name in self.unread
        ]
        return found


def read_pairs(
    path: str | Path, split: str = "train", keys: PairKeys | None = None
) -> list[PreferencePair]:
    """Read pairs from a JSONL (also gzipped) or parquet file, or a data set on the Hugging Face
    hub.

    Raises:
        ConfigError: no such file or data set; a bad row, with file and line.
    """
    return survey_pairs(path, split, keys or PairKeys()).pairs


def survey_pairs(
    path: str | Path, split: str, keys: PairKeys, setting: str = "data.path"
) -> ReadPairs:
    """Read pairs as `read_pairs`, with what was found on the way.

    ``setting`` is the configuration key of the path, for messages.
    """
    forms, columns = Counter[str](), set[str]()
    pairs: list[PreferencePair] = []
    alike = blank = 0
    for where, row in with_ratings_joined(rows_of(str(path), split, setting)):
        form, canonical = canonical_rows(row, where, keys)
        forms[form] += 1
        columns |= set(row)
        for one in canonical:
            if one["chosen"] == one["rejected"]:
                alike += 1
            elif has_blank_turn((pair := parse_row(one, where)).prompt):
                blank += 1
            else:
                pairs.append(pair)
    if (alike or blank) and not pairs:
        raise ConfigError(
            f"{setting}={str(path)!r}: expected pairs of two answers to a prompt; found {alike} of "
            f"equal answers, {blank} of blank prompts, and no others. Give another {setting}."
        )
    require_some(pairs, str(path), setting)
    named = {"label": keys.label, "margin": keys.margin}
    unread = tuple(name for name, key in named.items() if key is None and name in columns)
    return ReadPairs(pairs, forms, alike, blank, unread)


def parse_row(row: Any, where: str) -> PreferencePair:
    """Read one row as a pair.

    Raises:
        ConfigError: what is wrong with the row at ``where``, and what was expected.
    """
    if not isinstance(row, Mapping) or not {"chosen", "rejected"} <= set(row):
        found = sorted(row) if isinstance(row, Mapping) else type(row).__name__
        raise ConfigError(f"{where}: expected the keys 'chosen' and 'rejected', found {found}.")
    conversations = [_conversation(row, key, where) for key in ("chosen", "rejected")]
    if conversations[0] == conversations[1]:
        raise ConfigError(f"{where}: 'chosen' and 'rejected' are the same conversation.")
    return PreferencePair(
        *conversations,
        label=_number(row, "label", 1.0, 1.0, where),
        margin=_number(row, "margin", 0.0, LARGEST_MARGIN, where),
        group=_text(row.get("group")),
        subset=_text(row.get("subset") or row.get("source")),
        attributes=_attributes(row, where),
    )


def _attributes(row: Mapping[str, Any], where: str) -> dict[str, float]:
    labels = row.get("attributes") or {}
    if not isinstance(labels, Mapping):
        raise ConfigError(
            f"{where}: 'attributes' must be labels by name, as {{\"brevity\": 1}}; "
            f"found {shown(labels)}. {FIX}"
        )
    return {str(name): _number(labels, name, 0.5, 1.0, where) for name in labels}


def _conversation(row: Mapping[str, Any], key: str, where: str) -> Messages:
    value = row[key]
    if isinstance(value, str):
        prompt = row.get("prompt")
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        value = [*(prompt or ()), {"role": "assistant", "content": value}]
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) >= 2:
        messages = checked_messages(value, where, key, FIX)
        if messages[-1]["role"] == "assistant":
            return messages
    raise ConfigError(
        f"{where}: {key!r} must be chat messages that end with the assistant, or a text beside "
        f"'prompt'; found {shown(row[key])}. {FIX}"
    )


def _number(row: Mapping[str, Any], key: str, default: float, high: float, where: str) -> float:
    value = row.get(key)
    if value is None:
        return default
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= high:
        raise ConfigError(
            f"{where}: {key!r} must be a number in [0, {high:g}]; found {shown(value)}. {FIX}"
        )
    return float(value)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def fingerprint(pairs: Iterable[PreferencePair]) -> str:
    """Return 16 hexadecimal digits that name exactly these pairs, in this order."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(json.dumps(asdict(pair), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def split_pairs(
    pairs: Sequence[PreferencePair], held_out: int, seed: int = 0
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Return (train, held-out), at least ``held_out`` pairs in the latter; a group or a prompt is
    in one only.

    Raises:
        ConfigError: nothing left to train on.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    prompts = ["prompt " + json.dumps(pair.prompt) for pair in pairs]
    for pair, prompt in zip(pairs, prompts, strict=True):
        if pair.group:
            parent[root(prompt)] = root("group " + pair.group)
    families: dict[str, list[PreferencePair]] = {}
    for pair, prompt in zip(pairs, prompts, strict=True):
        families.setdefault(root(prompt), []).append(pair)
    order = list(families.values())
    random.Random(seed).shuffle(order)
    taken: list[PreferencePair] = []
    while order and len(taken) < held_out:
        taken += order.pop()
    if not order:
        raise ConfigError(
            f"data.held_out={held_out}: of {len(pairs)} pairs about {len(families)} prompts, none "
            "is left to train on. Lower data.held_out, or give data.held_out_path."
        )
    return [pair for family in order for pair in family], taken
