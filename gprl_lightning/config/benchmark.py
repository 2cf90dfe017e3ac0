"""Benchmarks and their judge: ``task=benchmark benchmark=mt_bench judge.base_url=…``."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from annotated_types import Interval

from gprl_lightning.config.section import (
    Count,
    Natural,
    NonNegative,
    Seconds,
    Text,
    require,
    section,
)


@section("benchmark")
class BenchmarkConfig:
    """Which benchmark is run, on which answers, and how much of it.

    ``_target_`` is a class with the `Benchmark` protocol, `options` its arguments.
    """

    _target_: str = ""  # set by benchmark=…
    options: dict[str, Any] = field(default_factory=dict)
    path: Text | None = None  # a folder laid out as the authors' repository; None: download
    answers: Text | None = None  # a file of answers in the benchmark's form; None: policy answers
    model: Text | None = None  # the policy's name in files and tables; None: the last part of path
    limit: Count | None = None  # the first so many questions; None: all
    max_new_tokens: Count | None = None  # of an answer; None: as published
    batch_size: Count = 16  # questions answered at once
    # a larger one marks every figure of the table; ours
    max_position_bias: Annotated[float, Interval(ge=0, le=0.5)] = 0.1


@section("judge")
class JudgeConfig:
    """A language model behind an OpenAI-compatible chat endpoint."""

    base_url: Text | None = None  # up to and including /v1; None: write the answers, and stop
    model: Text | None = None  # None: the benchmark's published judge
    api_key_env: Text | None = None  # the environment variable that holds the API key
    concurrency: Count = 16  # requests under way at once
    timeout: Annotated[float, Interval(gt=0, le=86_400)] = 120.0  # seconds for one request
    retries: Natural = 5
    backoff: Seconds = 1.0  # seconds before the first retry; they double
    longest_wait: Seconds = 300.0  # seconds before a retry, whatever Retry-After says
    # further fields of each request, as the server names them: vLLM's structured_outputs, …
    extra: dict[str, Any] = field(default_factory=dict)
    cache: Text | None = None  # folder of answers that are paid for; None: under paths.cache
    price_prompt: NonNegative | None = None  # of a million tokens, in any currency
    price_completion: NonNegative | None = None

    def __post_init__(self) -> None:
        prices = (self.price_prompt, self.price_completion)
        both = (prices[0] is None) == (prices[1] is None)
        require("judge.price_prompt, judge.price_completion", both, prices, "both, or neither")
