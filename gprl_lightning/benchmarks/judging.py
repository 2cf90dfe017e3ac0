"""All verdicts of a benchmark from one judge: what they will cost, and then what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gprl_lightning.benchmarks.protocol import Comparison, Verdict
from gprl_lightning.config.benchmark import JudgeConfig
from gprl_lightning.runtime.answer_cache import AnswerCache
from gprl_lightning.runtime.chat import Answer, ChatRequest, Price, Usage
from gprl_lightning.runtime.endpoint import BlockingEndpoint, EndpointOptions

CHARACTERS_PER_TOKEN = 4  # of English prose; for the estimate alone
PARTS = 10  # of the work, after each of which a line is printed


@dataclass(frozen=True)
class Estimate:
    """What a judge will be asked, by a rule of thumb: four characters are a token."""

    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    price: Price | None

    def line(self) -> str:
        """Return the estimate as one sentence."""
        text = (
            f"{self.calls} calls of the judge ({self.cached} more are in the cache), about "
            f"{self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens"
        )
        if self.price is None:
            return f"{text}. Give judge.price_prompt and judge.price_completion for the cost."
        return f"{text}; about {self.price.of(self.prompt_tokens, self.completion_tokens):.2f}."


def estimate(
    comparisons: Sequence[Comparison], judge: JudgeConfig, model: str, cache: Path, tokens: int
) -> Estimate:
    """Return what the comparisons will cost; those in the cache are free.

    Args:
        comparisons: what is to be judged.
        judge: the prices.
        model: the judge's name, under which its answers are in the cache.
        cache: the folder of its answers.
        tokens: how long one of its answers is expected to be.
    """
    asked = requests_of(comparisons, judge)
    stored = AnswerCache(cache)
    new = [request for request in asked if stored.get(request.body(model)) is None]
    characters = sum(len(m["content"]) for request in new for m in request.messages)
    return Estimate(
        calls=len(new),
        cached=len(asked) - len(new),
        prompt_tokens=characters // CHARACTERS_PER_TOKEN,
        completion_tokens=tokens * len(new),
        price=price_of(judge),
    )


def requests_of(comparisons: Sequence[Comparison], judge: JudgeConfig) -> list[ChatRequest]:
    """Return what the judge is asked, in the comparisons' order, with ``judge.extra`` added."""
    asked = [c.request for c in comparisons if c.decided is None]
    return [replace(request, extra={**request.extra, **judge.extra}) for request in asked]


def price_of(judge: JudgeConfig) -> Price | None:
    """Return the price of the judge's tokens, or None if it is not given."""
    if judge.price_prompt is None or judge.price_completion is None:
        return None
    return Price(judge.price_prompt, judge.price_completion)


def ask_judge(
    comparisons: Sequence[Comparison], judge: JudgeConfig, model: str, cache: Path
) -> tuple[list[Verdict], Usage]:
    """Return a verdict for each comparison, in their order, and what was used."""
    assert judge.base_url is not None
    options = EndpointOptions(
        base_url=judge.base_url,
        model=model,
        api_key_env=judge.api_key_env,
        concurrency=judge.concurrency,
        timeout=judge.timeout,
        retries=judge.retries,
        backoff=judge.backoff,
        longest_wait=judge.longest_wait,
    )
    asked = requests_of(comparisons, judge)
    with BlockingEndpoint(options, cache) as endpoint:
        results = iter(endpoint.ask_all(asked, print_progress("judged")))
        usage = endpoint.usage
    verdicts = [
        Verdict(c, next(results) if c.decided is None else Answer(c.decided)) for c in comparisons
    ]
    return verdicts, usage


def reported_models(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """Return what the endpoint itself called the models that judged."""
    answers = [v.result for v in verdicts if isinstance(v.result, Answer)]
    return tuple(sorted({a.model for a in answers if a.model is not None}))


class print_progress:
    """Print a line each time that another tenth is done."""

    def __init__(self, what: str):
        self.what, self.printed = what, 0

    def __call__(self, done: int, total: int) -> None:
        part = done * PARTS // total
        if part > self.printed:
            self.printed = part
            print(f"{self.what}: {done} of {total}", flush=True)
