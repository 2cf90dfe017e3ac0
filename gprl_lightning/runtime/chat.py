"""What is asked of a chat endpoint, and what comes back: plain values, without a connection."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ChatRequest:
    """One question to a chat model, with all that determines its answer.

    Attributes:
        messages: the conversation, as ``{"role": …, "content": …}``.
        temperature: of the answer; 0 is greedy.
        max_tokens: of the answer.
        top_p: nucleus of the answer's sampling; None leaves it to the server.
        seed: of the answer's sampling. Two requests that differ in it alone are two draws.
        top_logprobs: how many alternatives to report for each token; None asks for none.
        extra: further fields of the request's body, as the server names them.
    """

    messages: Sequence[Mapping[str, str]]
    temperature: float = 0.0
    max_tokens: int = 1024
    top_p: float | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def body(self, model: str) -> dict[str, Any]:
        """Return the JSON body of the request to `model`; what is None is left out."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [dict(m) for m in self.messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        if self.top_p is not None:
            body["top_p"] = self.top_p
        if self.seed is not None:
            body["seed"] = self.seed
        if self.top_logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return body | dict(self.extra)


def request_key(body: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a request's body: model, messages and sampling, but no address."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """A chat model's answer.

    Attributes:
        text: what it says.
        finish_reason: ``stop``, or ``length`` for an answer that was cut short.
        prompt_tokens: as the server counts them; 0 if it does not.
        completion_tokens: likewise.
        top_logprobs: for each token of the answer, the natural logarithm of the probability of the
            likeliest tokens, by their text; None if none were asked for.
        cached: True if it came from the disk, and so was paid for before.
        model: the server's own word for the model that answered.
    """

    text: str
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    top_logprobs: tuple[dict[str, float], ...] | None = None
    cached: bool = False
    model: str | None = None


@dataclass(frozen=True)
class Failure:
    """No answer, and why: a value, so that one lost answer does not lose the others.

    Attributes:
        kind: ``timeout``, ``connection``, ``rate_limit``, ``server``, ``rejected`` (a request that
            the server does not take), ``nonsense`` (a reply that is no chat completion) or
            ``refused`` (the model declined to answer).
        detail: the last cause, in the server's words where it gave any.
    """

    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


@dataclass
class Usage:
    """Count what was asked of an endpoint. Tokens are those of answers that were not cached."""

    calls: int = 0  # HTTP requests, retries included
    answers: int = 0
    cached: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def count(self, result: Answer | Failure) -> None:
        """Add one result."""
        if isinstance(result, Failure):
            self.failures += 1
        elif result.cached:
            self.cached += 1
        else:
            self.answers += 1
            self.prompt_tokens += result.prompt_tokens
            self.completion_tokens += result.completion_tokens

    def cost(self, price: Price) -> float:
        """Return what the counted tokens cost, in the price's currency."""
        return price.of(self.prompt_tokens, self.completion_tokens)

    def line(self, price: Price | None = None) -> str:
        """Return the counts as one sentence, with the cost where the price is known."""
        text = (
            f"{self.answers} answers in {self.calls} calls, {self.cached} from the cache, "
            f"{self.failures} failed; {self.prompt_tokens:,} prompt and "
            f"{self.completion_tokens:,} completion tokens"
        )
        return text if price is None else f"{text}; cost {self.cost(price):.2f}"


@dataclass(frozen=True)
class Price:
    """The price of a million tokens, in any currency."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the price of so many tokens."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


def read_answer(body: Any) -> Answer | Failure:
    """Return the answer in the JSON body of a chat completion, or a `Failure` that says what it is.

    A body without ``choices[0].message`` is nonsense. A message without text, or one that the
    server's filter stopped, is a refusal.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"]
        text, reason = message.get("content"), choice.get("finish_reason")
        usage = body.get("usage") or {}
        logprobs = _top_logprobs(choice.get("logprobs"))
        model = body.get("model")
        prompt = int(usage.get("prompt_tokens") or 0)
        completion = int(usage.get("completion_tokens") or 0)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return Failure("nonsense", f"expected a chat completion, found {str(body)[:200]}")
    refusal = message.get("refusal")
    if refusal or reason == "content_filter" or text is None:
        return Failure("refused", str(refusal or f"finish_reason={reason}, no text"))
    if not isinstance(text, str):
        return Failure("nonsense", f"expected a text as content, found {str(text)[:200]}")
    return Answer(text, reason, prompt, completion, logprobs, model=model)


def _top_logprobs(logprobs: Any) -> tuple[dict[str, float], ...] | None:
    if not logprobs or logprobs.get("content") is None:
        return None
    # A token may stand twice (two byte sequences of one text): the first is the likelier one.
    return tuple(
        {t["token"]: float(t["logprob"]) for t in reversed(token["top_logprobs"])}
        for token in logprobs["content"]
    )
