"""Benchmarks and their judge: ``task=benchmark benchmark=mt_bench judge.base_url=…``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gprl_lightning.config.checks import at_least, require


@dataclass
class BenchmarkConfig:
    """Which benchmark is run, on which answers, and how much of it.

    ``_target_`` is a class with the `Benchmark` protocol, `options` its arguments.
    """

    _target_: str = ""  # set by benchmark=…
    options: dict[str, Any] = field(default_factory=dict)
    path: str | None = None  # a folder laid out as the authors' repository; None: download
    answers: str | None = None  # a file of answers in the benchmark's form; None: policy answers
    model: str | None = None  # the policy's name in files and tables; None: the last part of path
    limit: int | None = None  # the first so many questions; None: all
    max_new_tokens: int | None = None  # of an answer; None: as published
    batch_size: int = 16  # questions answered at once
    max_position_bias: float = 0.1  # a larger one marks every figure of the table; ours

    def __post_init__(self) -> None:
        at_least("benchmark", self, 1, "limit", "max_new_tokens", "batch_size")
        bias = self.max_position_bias
        require("benchmark.max_position_bias", 0 <= bias <= 0.5, bias, "in [0, 0.5]")


@dataclass
class JudgeConfig:
    """A language model behind an OpenAI-compatible chat endpoint."""

    base_url: str | None = None  # up to and including /v1; None: write the answers, and stop
    model: str | None = None  # None: the benchmark's published judge
    api_key_env: str | None = None  # the environment variable that holds the API key
    concurrency: int = 16  # requests under way at once
    timeout: float = 120.0  # seconds for one request
    retries: int = 5
    backoff: float = 1.0  # seconds before the first retry; they double
    longest_wait: float = 300.0  # seconds before a retry, whatever the server's Retry-After says
    # further fields of each request, as the server names them: vLLM's structured_outputs, …
    extra: dict[str, Any] = field(default_factory=dict)
    cache: str | None = None  # folder of answers that are paid for; None: under paths.cache
    price_prompt: float | None = None  # of a million tokens, in any currency
    price_completion: float | None = None

    def __post_init__(self) -> None:
        at_least("judge", self, 1, "concurrency")
        at_least("judge", self, 0, "retries", "backoff", "longest_wait")
        at_least("judge", self, 0, "price_prompt", "price_completion")
        require("judge.timeout", self.timeout > 0, self.timeout, "> 0")
        both = (self.price_prompt is None) == (self.price_completion is None)
        require("judge.price_completion", both, self.price_completion, "both prices, or none")
