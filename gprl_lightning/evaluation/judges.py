"""Judges: who says which of two responses is better on held-out prompts.

The reward of a run is a learned preference model; a judge is something the reward never saw. A new
judge is a class with these two methods.
"""

from __future__ import annotations

from typing import Protocol

import torch

from gprl_lightning.core.batch import Messages
from gprl_lightning.core.preference import pairwise_scores, total_scores
from gprl_lightning.models.preference_source import PreferenceSource


class Judge(Protocol):
    """Compares responses to the same prompt."""

    def prefer(self, messages: Messages, response: str, other: str) -> float:
        """1 if `response` is better than `other`, 0 if worse, 0.5 if there is nothing between
        them."""
        ...

    def axes(self, messages: Messages, response: str) -> dict[str, float]:
        """The quality of a response on each of the judge's axes; empty where it has none."""
        ...


class PreferenceModelJudge:
    """Any preference source as the judge: the proxy itself, unless another one is given."""

    def __init__(self, source: PreferenceSource):
        self.source = source

    def prefer(self, messages: Messages, response: str, other: str) -> float:
        found = self.source.embed([messages], [[response, other]], [{}])
        score = total_scores(pairwise_scores(found.vectors)[:, 0, 1], found.eigenvalues)[0]
        return float(torch.heaviside(score, score.new_tensor(0.5)))

    def axes(self, messages: Messages, response: str) -> dict[str, float]:
        return {}
