"""One vLLM server over HTTP: token ids in, token ids with log-probabilities out. No vLLM import.

Two kinds of failure, because they ask for two answers: a server that is `Gone` (dead, late, cut
off, 5xx) may be replaced by another one; a `SamplerFailed` (4xx, an answer that makes no sense)
would be the same on every server.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gprl_lightning.errors import SamplerFailed

HEALTH_SECONDS = 10.0  # a server that is well answers at once, also on a busy machine


class Gone(RuntimeError):
    """The server is dead, late, or cut its answer off: another one may do."""


@dataclass(frozen=True)
class Sample:
    """One response as the server gave it.

    Attributes:
        ids: its tokens, the EOS that ended it included.
        logprobs: of each of them, in nats.
        finished: whether it ended by itself.
        versions: of the weights that made its tokens, in order.
    """

    ids: list[int]
    logprobs: list[float]
    finished: bool
    versions: tuple[str, ...]


class Server:
    """A vLLM server that `gprl_lightning.rollout.vllm_start` started, or one with its flags.

    Args:
        url: as ``http://127.0.0.1:8000``.
        model: the name that it serves the policy under.
        timeout: seconds that a request may take.
    """

    def __init__(self, url: str, model: str, timeout: float) -> None:
        self.url, self.model, self.timeout = url.rstrip("/"), model, timeout

    def call(
        self, method: str, path: str, body: object = None, timeout: float | None = None
    ) -> Any:
        """Return the answer's JSON, or {} where it has none.

        Raises:
            Gone: no answer, half an answer, or an error of the server's own.
            SamplerFailed: the request was refused.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout or self.timeout) as answer:
                text = answer.read()
            return json.loads(text) if text.strip().startswith((b"{", b"[")) else {}
        except urllib.error.HTTPError as error:  # before OSError, of which it is one
            said = error.read().decode(errors="replace")[:300]
            if error.code >= 500:
                raise Gone(f"{self.url}{path}: HTTP {error.code}: {said}") from error
            raise SamplerFailed(
                f"rollout.sampler: expected {self.url} to take {path} for the model "
                f"{self.model!r}; it answered HTTP {error.code}: {said}. Start it with "
                "gprl_lightning.rollout.vllm_start, with the policy's folder as --model."
            ) from error
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            raise Gone(f"{self.url}{path}: {type(error).__name__}: {error}") from error

    def post(self, path: str, body: object = None, **query: str) -> Any:
        """Call it by POST."""
        return self.call(
            "POST", path + (f"?{urllib.parse.urlencode(query)}" if query else ""), body
        )

    def version(self) -> str | None:
        """Return the version of the weights that it says it holds; None if it is not well."""
        try:
            self.call("GET", "/health", timeout=HEALTH_SECONDS)
            return str(self.call("GET", "/weight_info", timeout=HEALTH_SECONDS)["weight_version"])
        except (Gone, SamplerFailed, KeyError):
            return None

    def generate(
        self, prompt: Sequence[int], options: Mapping[str, Any], model: str | None = None
    ) -> list[Sample]:
        """Return ``options["n"]`` responses to one prompt of token ids. Sample i has seed + i.

        Args:
            options: vLLM's sampling parameters.
            model: another name than the server's own, as of an adapter.
        """
        body = {
            "model": model or self.model,
            "token_ids": list(prompt),
            "sampling_params": {**options, "logprobs": 0, "detokenize": False},
        }
        answer = self.post("/inference/v1/generate", body)
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            samples = [_sample(choice) for choice in choices]
        except (KeyError, TypeError) as error:
            raise Gone(f"{self.url}: an answer without {error}: {str(answer)[:200]}") from error
        if len(samples) != options["n"]:
            raise Gone(f"{self.url}: asked for {options['n']} samples, got {len(samples)}")
        reasons = {choice["finish_reason"] for choice in choices} - {"stop", "length"}
        if reasons:
            raise Gone(f"{self.url}: responses that ended by {sorted(map(str, reasons))}")
        return samples


def _sample(choice: Mapping[str, Any]) -> Sample:
    content = choice["logprobs"]["content"] or []
    if [entry["token_id"] for entry in content] != choice["token_ids"]:
        raise TypeError("log-probabilities of its own tokens")
    return Sample(
        ids=choice["token_ids"],
        logprobs=[entry["logprob"] for entry in content],
        finished=choice["finish_reason"] == "stop",
        versions=tuple(str(span["version"]) for span in choice["weight_versions"] or ()),
    )
