"""Which gold judges: the one that votes, or the one whose weights hang on the request."""

from __future__ import annotations

from typing import Protocol

from gprl_lightning.config import Config
from gprl_lightning.sandbox.contextual_gold import ContextualGold
from gprl_lightning.sandbox.gold import GoldJudge
from gprl_lightning.sandbox.requests import Request


class Gold(Protocol):
    """Judges answers to the sandbox's requests by their text alone."""

    @property
    def names(self) -> tuple[str, ...]:
        """Its axes."""
        ...

    def axes(self, request: Request, text: str) -> dict[str, float]:
        """Return the value of every axis, by name: more is better, whatever its unit."""
        ...

    def quality(self, request: Request, text: str) -> float:
        """Return how good an answer is, in one number."""
        ...

    def prefer(self, request: Request, a: str, b: str) -> float:
        """Return 1.0 if `a` is better than `b`, 0.0 if worse, 0.5 if neither."""
        ...

    def request_of(self, prompt_text: str) -> Request:
        """Return the request whose text is this user message.

        Raises:
            ValueError: it is not one of the sandbox's.
        """
        ...

    def identity(self) -> dict[str, object]:
        """Return what a resumed run must find again, in plain values."""
        ...


def gold_of(config: Config) -> Gold:
    """Return the gold that ``sandbox.gold`` names, with the votes of
    ``preference_training.cyclic_votes``."""
    match config.sandbox.gold:
        case "vote":
            return GoldJudge(cyclic_votes=config.preference_training.cyclic_votes)
        case "contextual":
            return ContextualGold()
