"""A language model behind an OpenAI-compatible endpoint as a judge. Ours.

Each comparison is asked in both orders, so that a liking for a place cancels: two verdicts that
contradict each other are a tie.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gprl_lightning.core.batch import Messages, Prompt
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.rubric import pairwise_question, read_verdict
from gprl_lightning.runtime.chat import Answer, ChatRequest, Failure, Price
from gprl_lightning.runtime.endpoint import BlockingEndpoint, EndpointOptions

CRITERION = "Is the better answer: helpful, correct, and to the point."
PROBE: Messages = ({"role": "user", "content": "Name a fruit."},)


class EndpointJudge:
    """Asks a language model which of two responses is better.

    What has no answer that can be read, in either order, has no verdict: a server that is away
    costs an evaluation, and not the run.

    Args:
        url: of the endpoint, up to and including ``/v1``.
        model: the name that the server knows the model by.
        criterion: what makes a response better.
        api_key_env: the environment variable that holds the API key; None sends none.
        cache: a folder that keeps the answers; None keeps none.
        price: of a million prompt tokens and completion tokens, for the line of costs.
        options: of the request (``temperature``, ``max_tokens``, ``seed``, ``extra``).
        endpoint: further options of `EndpointOptions` (``timeout``, ``retries``, …).
        key: of the configuration, for errors.

    Raises:
        ConfigError: options that these are not, or an API key that is not set.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        criterion: str = CRITERION,
        api_key_env: str | None = None,
        cache: str | None = None,
        price: Sequence[float] | None = None,
        options: Mapping[str, Any] | None = None,
        endpoint: Mapping[str, Any] | None = None,
        key: str = "evaluation.judge",
    ):
        self.key, self.model, self.criterion = key, model, criterion
        self.price = None if price is None else Price(*price)
        self.options: dict[str, Any] = {"max_tokens": 16, **(options or {})}
        where = EndpointOptions(url, model, **{"api_key_env": api_key_env, **(endpoint or {})})
        self.where = f"{model} at {url}"
        self.endpoint = BlockingEndpoint(where, None if cache is None else Path(cache))

    def require_answer(self) -> None:
        """Ask one question, so that an endpoint that cannot answer is known before the run begins.

        Raises:
            ConfigError: there is no answer, or none that can be read.
        """
        result = self.endpoint.ask(self._request(PROBE, "A pear.", "No."))
        if isinstance(result, Failure) or read_verdict(result.text) is None:
            said = str(result) if isinstance(result, Failure) else repr(result.text[:80])
            raise ConfigError(
                f"{self.key}: expected A, B or tie from {self.where}; found {said}. Start the "
                "server, or correct its url, its model or the options of the request."
            )

    def prefer(
        self, prompts: Sequence[Prompt], responses: Sequence[str], others: Sequence[str]
    ) -> list[float | None]:
        """Return 1 for the response, 0 for the other, 0.5 for a tie, all asked concurrently."""
        requests = [
            self._request(p.messages, *answers)
            for p, a, b in zip(prompts, responses, others, strict=True)
            for answers in ((a, b), (b, a))
        ]
        results = self.endpoint.ask_all(requests)
        read = [read_verdict(r.text) if isinstance(r, Answer) else None for r in results]
        pairs = list(zip(read[::2], read[1::2], strict=True))
        both = [(first, second) for first, second in pairs if None not in (first, second)]
        against = sum(first == second != 0 for first, second in both)
        sys.stderr.write(
            f"{self.key}: {self.endpoint.usage.line(self.price)}; the two orders contradict each "
            f"other in {against} of {len(both)} comparisons\n"
        )
        return [
            None if first is None or second is None else 0.5 + (first - second) / 4
            for first, second in pairs
        ]

    def axes(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> dict[str, Sequence[float]]:
        """Return nothing: it only compares."""
        return {}

    def _request(self, prompt: Messages, first: str, second: str) -> ChatRequest:
        question = pairwise_question(self.criterion, prompt, first, second)
        return ChatRequest([{"role": "user", "content": question}], **self.options)
