"""A client of any OpenAI-compatible chat endpoint: concurrent, patient, cached, counted.

`ChatEndpoint` is asynchronous. `BlockingEndpoint` is its face for ordinary code: it has an event
loop of its own in a thread of its own, so that it also works where a loop is running already.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx

from gprl_lightning.errors import ConfigError
from gprl_lightning.runtime.answer_cache import AnswerCache
from gprl_lightning.runtime.chat import (
    Answer,
    ChatRequest,
    Failure,
    Usage,
    read_answer,
    request_key,
)

Result = Answer | Failure
Progress = Callable[[int, int], None]
T = TypeVar("T")

RATE_LIMITED = 429
RETRIED = (408, 409, 425, RATE_LIMITED)


@dataclass(frozen=True)
class EndpointOptions:
    """Where an endpoint is, and how patiently it is asked.

    Attributes:
        base_url: up to and including ``/v1``.
        model: the name that the server knows the model by.
        api_key_env: the environment variable that holds the API key; None sends none.
        concurrency: requests under way at once.
        timeout: seconds for one request, from sending it to its whole answer.
        retries: further tries after a time-out, a lost connection, or a status 408, 409, 425, 429
            or 5xx.
        backoff: seconds before the first retry; they double with each, and vary by up to a half.
        longest_wait: most seconds before a retry, whatever the server's ``Retry-After`` says.
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    concurrency: int = 16
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0
    longest_wait: float = 300.0

    def api_key(self) -> str | None:
        """Return the key, or None if the endpoint wants none.

        Raises:
            ConfigError: the named variable is not set.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env)
        if not key:
            raise ConfigError(
                f"api_key_env={self.api_key_env}: expected an environment variable that holds the "
                f"API key of {self.base_url}; it is not set. Set it, or leave api_key_env out."
            )
        return key


class ChatEndpoint:
    """Ask a chat model many questions at once.

    Args:
        options: the address, and how patiently it is asked.
        cache: where answers are kept; None keeps none. Failures are never kept.
    """

    def __init__(self, options: EndpointOptions, cache: Path | None = None):
        self.options, self.usage = options, Usage()
        self._cache = None if cache is None else AnswerCache(cache)
        self._key = options.api_key()
        self._client = httpx.AsyncClient(
            base_url=options.base_url.rstrip("/") + "/",
            headers={} if self._key is None else {"Authorization": f"Bearer {self._key}"},
            timeout=options.timeout,
            limits=httpx.Limits(max_connections=options.concurrency),
        )
        self._places = asyncio.Semaphore(options.concurrency)
        self._pending: dict[str, asyncio.Task[Result]] = {}
        self._resume_at = 0.0  # by time.monotonic(): a rate limit holds for all requests

    async def ask(self, request: ChatRequest) -> Result:
        """Return the answer to one request, or the `Failure` that is left after all retries.

        Equal requests that are under way together are sent once.
        """
        body = request.body(self.options.model)
        stored = self._cache.get(body) if self._cache else None
        if stored is not None:
            self.usage.count(stored)
            return stored
        key = request_key(body)
        if key not in self._pending:
            task = asyncio.create_task(self._ask(body))
            self._pending[key] = task
            task.add_done_callback(lambda _: self._pending.pop(key))
        return await self._pending[key]

    async def ask_all(
        self, requests: Sequence[ChatRequest], progress: Progress | None = None
    ) -> list[Result]:
        """Return the results of `requests` in their order; `progress` gets (done, all) of them."""
        done = 0

        async def one(request: ChatRequest) -> Result:
            nonlocal done
            result = await self.ask(request)
            done += 1
            if progress is not None:
                progress(done, len(requests))
            return result

        return list(await asyncio.gather(*map(one, requests)))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, body: Mapping[str, Any]) -> Result:
        async with self._places:
            result, wait = await self._try(body)
            for attempt in range(self.options.retries):
                if wait is None:
                    break
                await asyncio.sleep(self._pause(attempt, wait))
                result, wait = await self._try(body)
        self.usage.count(result)
        if self._cache and isinstance(result, Answer):
            self._cache.put(body, result)
        return result

    def _pause(self, attempt: int, told: float) -> float:
        """Return the seconds before a retry: what the server told, or longer with each attempt."""
        grown = self.options.backoff * 2**attempt * random.uniform(0.75, 1.25)
        return min(max(grown, told), self.options.longest_wait)

    async def _try(self, body: Mapping[str, Any]) -> tuple[Result, float | None]:
        """Send the request once. Return its result, and the seconds that the server wants to be
        left alone before a retry: 0 if it does not say, None if there is nothing to retry."""
        await asyncio.sleep(max(0.0, self._resume_at - time.monotonic()))
        self.usage.calls += 1
        sending = self._client.post("chat/completions", json=dict(body))
        try:
            reply = await asyncio.wait_for(sending, self.options.timeout)
        except (httpx.TimeoutException, asyncio.TimeoutError):
            return Failure("timeout", f"no answer within {self.options.timeout:g} s"), 0.0
        except httpx.HTTPError as error:
            return Failure("connection", f"{type(error).__name__}: {error}"), 0.0
        if reply.status_code != httpx.codes.OK:
            return self._refusal(reply)
        try:
            result = read_answer(reply.json())
        except ValueError:
            result = Failure("nonsense", f"expected JSON, found {reply.text[:200]!r}")
        nonsense = isinstance(result, Failure) and result.kind == "nonsense"
        return result, 0.0 if nonsense else None

    def _refusal(self, reply: httpx.Response) -> tuple[Failure, float | None]:
        status = reply.status_code
        detail = f"HTTP {status}: {reply.text[:300]}"
        if self._key is not None:
            detail = detail.replace(self._key, "(the API key)")
        if status not in RETRIED and status < 500:
            return Failure("rejected", detail), None
        wait = min(_retry_after(reply.headers.get("Retry-After")), self.options.longest_wait)
        if status == RATE_LIMITED:
            self._resume_at = max(self._resume_at, time.monotonic() + wait)
        return Failure("rate_limit" if status == RATE_LIMITED else "server", detail), wait


def _retry_after(value: str | None) -> float:
    """Return the seconds that a ``Retry-After`` header asks for: a number, or a date."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


class BlockingEndpoint:
    """A `ChatEndpoint` for code that is not asynchronous. Close it, or use it in a ``with``."""

    def __init__(self, options: EndpointOptions, cache: Path | None = None):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._endpoint = ChatEndpoint(options, cache)
        self._thread.start()

    @property
    def usage(self) -> Usage:
        """What has been asked so far."""
        return self._endpoint.usage

    def ask(self, request: ChatRequest) -> Result:
        """Return the answer to one request, or a `Failure`."""
        return self._wait(self._endpoint.ask(request))

    def ask_all(
        self, requests: Sequence[ChatRequest], progress: Progress | None = None
    ) -> list[Result]:
        """Return the results of `requests` in their order, asked concurrently."""
        return self._wait(self._endpoint.ask_all(requests, progress))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # an interrupt: let nothing go on behind the caller's back
            future.cancel()
            raise

    def close(self) -> None:
        """Close the connections, and end the thread."""
        if self._thread.is_alive():
            self._wait(self._endpoint.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> BlockingEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
