"""The sandbox's gold as a judge of responses to the sandbox's requests."""

from __future__ import annotations

from collections.abc import Sequence

from gprl_lightning.core.batch import Messages, Prompt
from gprl_lightning.errors import ConfigError
from gprl_lightning.sandbox.golds import Gold
from gprl_lightning.sandbox.requests import Request


class SandboxGoldJudge:
    """A gold as a `Judge`, computed from the text alone; see `sandbox.golds`."""

    def __init__(self, gold: Gold) -> None:
        self.gold = gold

    def prefer(
        self, prompts: Sequence[Prompt], responses: Sequence[str], others: Sequence[str]
    ) -> list[float]:
        """Return the gold's verdict on each pair.

        Raises:
            ConfigError: a prompt that is not a request of the sandbox.
        """
        rows = zip(prompts, responses, others, strict=True)
        return [self.gold.prefer(self.request(p.messages), a, b) for p, a, b in rows]

    def axes(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[str, list[float]]:
        """Return each response's place on each gold axis.

        Raises:
            ConfigError: a prompt that is not a request of the sandbox.
        """
        pairs = zip(prompts, responses, strict=True)
        rows = [self.gold.axes(self.request(p.messages), text) for p, text in pairs]
        return {name: [row[name] for row in rows] for name in self.gold.names}

    def request(self, messages: Messages) -> Request:
        """Return the request that the conversation ends with.

        Raises:
            ConfigError: it is not one of the sandbox's.
        """
        text = messages[-1]["content"]
        try:
            return self.gold.request_of(text)
        except (KeyError, ValueError):
            raise ConfigError(
                f"evaluation.judge=sandbox_gold: {text[:60]!r} is not a request of the sandbox. "
                "Set evaluation.judge=model, endpoint or none for your own prompts."
            ) from None
