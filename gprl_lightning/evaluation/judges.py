"""Judges: who says which of two responses is better on held-out prompts.

The reward of a run is a learned preference model; a judge is something the reward never saw. A new
judge is a class with these two methods, and a line in `make_judge`.
"""

from __future__ import annotations

from typing import Protocol

import torch

from gprl_lightning.config import ConfigError
from gprl_lightning.core.batch import Messages
from gprl_lightning.models.preference_model import PreferenceModel


class Judge(Protocol):
    """Compares responses to the same prompt."""

    def prefer(self, messages: Messages, response: str, other: str) -> float:
        """1 if `response` is better than `other`, 0 if worse, 0.5 if there is nothing between
        them."""
        ...

    def axes(self, messages: Messages, response: str) -> dict[str, float]:
        """The quality of a response on each of the judge's axes; empty where it has none."""
        ...


class SandboxGoldJudge:
    """The sandbox's gold axes, computed from the text alone; see `sandbox.gold.GoldJudge`."""

    def __init__(self, cyclic_votes: int = 0) -> None:
        from gprl_lightning.sandbox.gold import GoldJudge

        self.gold = GoldJudge(cyclic_votes=cyclic_votes)

    def prefer(self, messages: Messages, response: str, other: str) -> float:
        return self.gold.prefer(self._request(messages), response, other)

    def axes(self, messages: Messages, response: str) -> dict[str, float]:
        return self.gold.axes(self._request(messages), response)

    def _request(self, messages: Messages):
        text = messages[-1]["content"]
        try:
            return self.gold.request_of(text)
        except (KeyError, ValueError):
            raise ConfigError(
                f"evaluation.judge=sandbox_gold: {text[:60]!r} is not a request of the sandbox. "
                "Set evaluation.judge=preference_model or none for your own prompts."
            ) from None


class PreferenceModelJudge:
    """A preference model as the judge: the proxy itself, unless another one is given."""

    def __init__(self, preference_model: PreferenceModel):
        self.preference_model = preference_model

    def prefer(self, messages: Messages, response: str, other: str) -> float:
        score = self.preference_model.compare(messages, [response, other]).score[0, 1]
        return float(torch.heaviside(score, score.new_tensor(0.5)))

    def axes(self, messages: Messages, response: str) -> dict[str, float]:
        return {}


def make_judge(name: str, preference_model: PreferenceModel, cyclic_votes: int = 0) -> Judge | None:
    """The judge of ``evaluation.judge``: sandbox_gold (with the votes that labelled the pairs),
    preference_model or none."""
    match name:
        case "sandbox_gold":
            return SandboxGoldJudge(cyclic_votes)
        case "preference_model":
            return PreferenceModelJudge(preference_model)
        case "none":
            return None
        case _:
            raise ConfigError(
                f"evaluation.judge={name!r}: expected sandbox_gold | preference_model | none."
            )
