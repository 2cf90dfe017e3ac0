"""Criteria judged by a language model, each an axis: over any OpenAI-compatible endpoint. Ours.

Pointwise, each response is scored from 1 to 10 on each criterion, and a score is a difference of
two. Pairwise, the model says which of two responses meets a criterion better, in both orders, and
the mean of both is the entry of a skew-symmetric matrix, cycles included.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gprl_lightning.core.batch import Columns, Messages
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.errors import ConfigError, RewardFailed
from gprl_lightning.runtime.chat import Answer, ChatRequest, Price
from gprl_lightning.runtime.endpoint import BlockingEndpoint, EndpointOptions

POINTWISE = (
    "Criterion: {criterion}\n\nConversation:\n{prompt}\n\nResponse:\n{first}\n\n"
    "How well does the response meet the criterion? Answer with one whole number from 1 (not at "
    "all) to 10 (fully), and nothing else."
)
PAIRWISE = (
    "Criterion: {criterion}\n\nConversation:\n{prompt}\n\nResponse A:\n{first}\n\n"
    "Response B:\n{second}\n\nWhich response meets the criterion better? Answer with A, B or tie, "
    "and nothing else."
)
GRADE = re.compile(r"\b(10|[1-9])\b(?!\.\d)")
# A small a is an article, unless it is all that was said.
VERDICT = re.compile(r"\b(A|B|(?i:tie))\b|^\W*([ab])\W*$")
VALUES = {"a": 1.0, "b": -1.0, "tie": 0.0}


class Rubric:
    """A `PreferenceSource` of named criteria.

    Args:
        criteria: what each axis asks, by its name.
        base_url: of the endpoint, up to and including ``/v1``.
        model: the name that the server knows the model by.
        pairwise: compare pairs, in both orders, instead of scoring each response.
        weights: λ of each criterion; 1 where none is given.
        cache: a folder that keeps the answers; None keeps none.
        max_failures: share of questions that may stay without an answer; more end the run.
        price: of a million prompt tokens and completion tokens, for the line of costs.
        options: of the request (``temperature``, ``max_tokens``, ``seed``, ``extra``).
        endpoint: further options of `EndpointOptions` (``timeout``, ``retries``, …).
    """

    tau = 1.0

    def __init__(
        self,
        criteria: Mapping[str, str],
        base_url: str,
        model: str,
        *,
        pairwise: bool = False,
        weights: Mapping[str, float] | None = None,
        cache: str | None = None,
        max_failures: float = 0.2,
        price: Sequence[float] | None = None,
        options: Mapping[str, Any] | None = None,
        endpoint: Mapping[str, Any] | None = None,
    ):
        if not criteria or not base_url or not model:
            raise ConfigError(
                "preference_model=rubric: expected preference_model.criteria, .base_url and .model;"
                f" found criteria={dict(criteria)}, base_url={base_url!r}, model={model!r}."
            )
        self.criteria, self.pairwise, self.model = dict(criteria), pairwise, model
        self.axes = tuple(self.criteria)
        self.weights = [float((weights or {}).get(name, 1.0)) for name in self.axes]
        self.max_failures = max_failures
        self.price = None if price is None else Price(*price)
        self.options: dict[str, Any] = {"max_tokens": 16, **(options or {})}
        where = EndpointOptions(base_url, model, **(endpoint or {}))
        self.endpoint = BlockingEndpoint(where, None if cache is None else Path(cache))

    def embed(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[Sequence[str]],
        columns: Sequence[Columns] = (),
    ) -> Embeddings:
        """Ask all questions about all groups at once, and read the answers.

        Raises:
            RewardFailed: more questions than ``max_failures`` have no answer that can be read.
        """
        groups, size = len(prompts), len(responses[0])
        compared = 2 if self.pairwise else 1  # answers in one question
        pairs = list(itertools.permutations(range(size), compared))
        places = [
            (group, pair, axis)
            for group in range(groups)
            for pair in pairs
            for axis in range(len(self.axes))
        ]
        requests = [
            self._request(prompts[g], [responses[g][i] for i in pair], self.axes[axis])
            for g, pair, axis in places
        ]
        values = self._asked(requests)
        weights = torch.tensor([self.weights] * groups)
        if self.pairwise:
            table = torch.zeros(groups, size, size, len(self.axes))
            for (group, pair, axis), value in zip(places, values, strict=True):
                i, j = pair
                if value is not None:  # none: neither for nor against
                    table[group, i, j, axis] += value / 2
                    table[group, j, i, axis] -= value / 2
            return Embeddings.of_pairs(table, weights)
        grades = torch.full((groups, size, len(self.axes)), torch.nan)
        for (group, pair, axis), value in zip(places, values, strict=True):
            grades[group, pair[0], axis] = torch.nan if value is None else value
        return _of_grades(grades, weights)

    def _request(self, prompt: Messages, answers: Sequence[str], name: str) -> ChatRequest:
        ask = pairwise_question if self.pairwise else pointwise_question
        text = ask(self.criteria[name], prompt, *answers)
        return ChatRequest([{"role": "user", "content": text}], **self.options)

    def _asked(self, requests: list[ChatRequest]) -> list[float | None]:
        results = self.endpoint.ask_all(requests)
        read = read_verdict if self.pairwise else read_grade
        values = [read(r.text) if isinstance(r, Answer) else None for r in results]
        silent = values.count(None)
        sys.stderr.write(f"rubric: {self.endpoint.usage.line(self.price)}\n")
        if silent > self.max_failures * len(values):
            first = next(r for r, v in zip(results, values, strict=True) if v is None)
            said = repr(first.text[:80]) if isinstance(first, Answer) else str(first)
            raise RewardFailed(
                f"preference_model=rubric: expected answers to {1 - self.max_failures:.0%} of the "
                f"questions at least; {silent} of {len(values)} have none, the first: {said}. "
                "Check the endpoint, or raise preference_model.max_failures."
            )
        return values

    def identity(self) -> dict[str, object]:
        """Return what is asked, and of which model."""
        asked = {"criteria": self.criteria, "model": self.model, "pairwise": self.pairwise}
        return {**asked, "weights": self.weights, "options": self.options}


def pointwise_question(criterion: str, prompt: Messages, response: str) -> str:
    """Return what a judge is asked of one response."""
    return POINTWISE.format(criterion=criterion, prompt=_written(prompt), first=response)


def pairwise_question(criterion: str, prompt: Messages, first: str, second: str) -> str:
    """Return what a judge is asked of two responses."""
    conversation = _written(prompt)
    return PAIRWISE.format(criterion=criterion, prompt=conversation, first=first, second=second)


def _written(prompt: Messages) -> str:
    return "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def read_grade(text: str) -> float | None:
    """Return the last whole number from 1 to 10, or None."""
    found = GRADE.findall(text)
    return float(found[-1]) if found else None


def read_verdict(text: str) -> float | None:
    """Return 1 for A, -1 for B, 0 for a tie; None if the text says none of them, or several."""
    found = {(word or alone).lower() for word, alone in VERDICT.findall(text)}
    return VALUES[found.pop()] if len(found) == 1 else None


def _of_grades(grades: Tensor, weights: Tensor) -> Embeddings:
    """A response without a grade stands at its group's mean; an axis without any counts nothing."""
    silent = grades.isnan()
    filled = torch.where(silent, grades.nanmean(1, keepdim=True), grades).nan_to_num()
    return Embeddings.of_rewards(filled, torch.where(silent.all(1), 0.0, weights))
