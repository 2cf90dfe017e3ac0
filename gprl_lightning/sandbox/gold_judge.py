"""The sandbox's gold as a judge of held-out responses."""

from __future__ import annotations

from gprl_lightning.core.batch import Messages
from gprl_lightning.errors import ConfigError
from gprl_lightning.sandbox.gold import GoldJudge
from gprl_lightning.sandbox.requests import Request


class SandboxGoldJudge:
    """The gold axes as a `Judge`, computed from the text alone; see `sandbox.gold`."""

    def __init__(self, cyclic_votes: int = 0) -> None:
        self.gold = GoldJudge(cyclic_votes=cyclic_votes)

    def prefer(self, messages: Messages, response: str, other: str) -> float:
        return self.gold.prefer(self._request(messages), response, other)

    def axes(self, messages: Messages, response: str) -> dict[str, float]:
        return self.gold.axes(self._request(messages), response)

    def _request(self, messages: Messages) -> Request:
        text = messages[-1]["content"]
        try:
            return self.gold.request_of(text)
        except (KeyError, ValueError):
            raise ConfigError(
                f"evaluation.judge=sandbox_gold: {text[:60]!r} is not a request of the sandbox. "
                "Set evaluation.judge=preference_model or none for your own prompts."
            ) from None
