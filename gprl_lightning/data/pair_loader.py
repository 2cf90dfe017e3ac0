"""Pairs in batches of similar length, in a seeded order that a run can resume from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.data.preferences import PreferencePair
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.chat_text import ChatText, TextBatch

WINDOW = 50  # batches that are sorted by length together


@dataclass(frozen=True)
class PairBatch:
    """Pairs as tokens.

    Attributes:
        texts: chosen and rejected conversations in turn: rows 2i and 2i + 1 are pair i.
        labels: probability that the chosen one is better.
        margins: by how much, in units of the score.
        attributes: probability that the chosen one has more of each attribute asked for.
    """

    texts: TextBatch
    labels: Float[Tensor, " pairs"]
    margins: Float[Tensor, " pairs"]
    attributes: Float[Tensor, "pairs attributes"]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, *args: Any, **kwargs: Any) -> PairBatch:
        """Move it to another device, as ``Tensor.to``."""
        rest = (self.labels, self.margins, self.attributes)
        labels, margins, attributes = (part.to(*args, **kwargs) for part in rest)
        return PairBatch(self.texts.to(*args, **kwargs), labels, margins, attributes)


def collate_pairs(
    pairs: Sequence[PreferencePair], text: ChatText, attributes: Sequence[str] = ()
) -> PairBatch:
    """Tokenise and pad ``pairs``, with the labels of these of their attributes."""
    rows = text([conversation for pair in pairs for conversation in (pair.chosen, pair.rejected)])
    return PairBatch(
        text.collate(rows),
        torch.tensor([pair.label for pair in pairs]),
        torch.tensor([pair.margin for pair in pairs]),
        torch.tensor([[pair.attributes[name] for name in attributes] for pair in pairs]),
    )


class PairLoader:
    """An iterable of `PairBatch` for one of several processes; one pass over it is the whole run.

    In each epoch of the data, pairs are shuffled by (seed, epoch), sorted by length within windows
    of ``WINDOW`` batches, cut into batches that never split a group, and the batches shuffled. What
    does not fill a batch on every process is left out of that epoch (``shuffle=False``, for
    evaluation, leaves nothing out on one process). The position is saved and restored by Lightning
    through ``state_dict``.

    Args:
        pairs: the data.
        text: tokens of a conversation, as the model's ``text``.
        batch_size: pairs per batch and process.
        epochs: passes over the data.
        shuffle: False: by length, longest last.
        attributes: names of the pairs' attributes that batches carry.

    Raises:
        ConfigError: fewer pairs than one batch on every process; a group larger than a batch; a
            pair without one of `attributes`.
    """

    def __init__(
        self,
        pairs: Sequence[PreferencePair],
        text: ChatText,
        batch_size: int,
        *,
        epochs: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        attributes: Sequence[str] = (),
    ):
        _require_attributes(pairs, attributes)
        self.attributes = attributes
        self.pairs, self.text, self.batch_size, self.seed = pairs, text, batch_size, seed
        self.shuffle, self.rank, self.world_size = shuffle, rank, world_size
        self.position = 0
        self._units = _units(pairs, batch_size)
        self._lengths = [max(map(_length, (pair.chosen, pair.rejected))) for pair in pairs]
        self._plan = lru_cache(maxsize=2)(self._epoch_plan)
        self._starts = [0]
        for epoch in range(epochs):
            self._starts.append(self._starts[-1] + len(self._plan(epoch)))
        if len(self) == 0:
            raise ConfigError(
                f"data.batch_size={batch_size} on {world_size} process(es): a step takes "
                f"{batch_size * world_size} pairs, and there are {len(pairs)}."
            )

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[PairBatch]:
        if self.position >= len(self):
            self.position = 0
        while self.position < len(self):
            batch = self.batch(self.position)
            self.position += 1
            yield batch

    def batch(self, position: int) -> PairBatch:
        """Return the pairs of this process at step ``position`` (0-based): a pure function of
        it."""
        return collate_pairs(
            [self.pairs[i] for i in self.rows(position)], self.text, self.attributes
        )

    def rows(self, position: int) -> list[int]:
        """Return the indices of those pairs."""
        epoch = next(e for e, start in enumerate(self._starts[1:]) if position < start)
        return self._plan(epoch)[position - self._starts[epoch]][self.rank]

    def _epoch_plan(self, epoch: int) -> list[list[list[int]]]:
        """Steps × processes × indices of pairs: the same on every process."""
        order = list(self._units)
        generator = random.Random(f"{self.seed} {epoch}")
        if self.shuffle:
            generator.shuffle(order)
        window = WINDOW * self.batch_size if self.shuffle else len(order)
        batches: list[list[int]] = [[]]
        for start in range(0, len(order), window):
            for unit in sorted(order[start : start + window], key=self._unit_length):
                if len(batches[-1]) + len(unit) > self.batch_size:
                    batches.append([])
                batches[-1] = batches[-1] + unit
        if self.shuffle:
            batches = self._without_remainder(batches)
            generator.shuffle(batches)
        steps = len(batches) // self.world_size
        return [batches[i * self.world_size : (i + 1) * self.world_size] for i in range(steps)]

    def _without_remainder(self, batches: list[list[int]]) -> list[list[int]]:
        """Leave out a last batch that is much smaller than the rest: its pairs would weigh more."""
        return batches[:-1] if 2 * len(batches[-1]) < self.batch_size else batches

    def _unit_length(self, unit: list[int]) -> int:
        return max(self._lengths[i] for i in unit)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def _require_attributes(pairs: Sequence[PreferencePair], names: Sequence[str]) -> None:
    for i, pair in enumerate(pairs):
        missing = sorted(set(names) - set(pair.attributes))
        if missing:
            raise ConfigError(
                f"preference_training.axis_attributes: pair {i + 1} has no attribute "
                f"{missing[0]!r}; it has {sorted(pair.attributes)}. Name one of these, or label "
                "the data."
            )


def _units(pairs: Sequence[PreferencePair], batch_size: int) -> list[list[int]]:
    """Indices of pairs that must stay together."""
    units: dict[object, list[int]] = {}
    for i, pair in enumerate(pairs):
        units.setdefault(pair.group or i, []).append(i)
    for name, unit in units.items():
        if len(unit) > batch_size:
            raise ConfigError(
                f"data.batch_size={batch_size}: the group {name!r} has {len(unit)} pairs, which "
                "must share a batch."
            )
    return list(units.values())


def _length(conversation: Any) -> int:
    # Characters stand in for tokens: good enough to sort by, and nothing has to be tokenised for
    # it.
    return sum(len(message["content"]) for message in conversation)
