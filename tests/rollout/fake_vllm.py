"""A server that speaks vLLM's protocol, as far as the client uses it, with a tiny real model.

It holds weights of its own, draws from them, and can be told to misbehave: see `FAULTS`.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors.torch import load_file
from torch import Tensor

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.models.policy import Policy
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.rollout.sampling import filter_floor

FAULTS = (
    "slow",  # answers after the client's patience
    "dead",  # closes the connection
    "truncated",  # sends half of an answer
    "crashed",  # HTTP 500
    "abort",  # responses that were cut off by the server
    "version",  # samples that another version made
    "stale",  # answers 200 to new weights and keeps the old ones
    "prefix",  # cannot empty its prefix cache
    "model",  # serves another model: 404
    "vocabulary",  # token ids that the policy does not have
    "short",  # cuts responses at its own limit of tokens
)


class FakeVLLM:
    """The server's state. ``fault`` is one of `FAULTS`, or None; ``calls`` are the paths asked.

    ``logprobs`` is vLLM's ``--logprobs-mode``: ``raw_logprobs``, before temperature and cut, or
    ``processed_logprobs``, behind both.
    """

    def __init__(self, policy: Policy, sleep: float = 1.0, logprobs: str = "raw_logprobs") -> None:
        self.logprobs = logprobs
        shared = {id(policy.tokenizer): policy.tokenizer}
        self.policy = copy.deepcopy(policy, shared)
        self.fault: str | None = None
        self.sleep, self.paused, self.version, self.adapters = sleep, False, "default", {"policy"}
        self.calls: list[str] = []
        self.prompts: list[list[int]] = []
        self.lock = threading.Lock()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """The HTTP status and the JSON of one request."""
        self.calls.append(path)
        if path == "/health":
            return 200, {}
        if path == "/weight_info":
            return 200, {"weight_version": self.version}
        if path == "/inference/v1/generate":
            return self.generate(body)
        if path == "/pause" or path == "/resume":
            self.paused = path == "/pause"
        if path == "/collective_rpc":
            assert body["method"] == "load_folder" and self.paused
            self.load(Path(body["kwargs"]["folder"]) / "model.safetensors")
        if path == "/v1/load_lora_adapter":
            assert self.paused
            self.adapters.add(body["lora_name"])
            self.load(Path(body["lora_path"]) / "adapter_model.safetensors")
        if path == "/v1/unload_lora_adapter":
            self.adapters.remove(body["lora_name"])
        if path == "/reset_prefix_cache":
            return 200, {"success": self.fault != "prefix"}
        if path == "/update_weight_version":
            self.version = body["new_version"]
        return 200, {}

    def load(self, file: Path) -> None:
        """Take the weights of a file."""
        tensors, model = load_file(file), self.policy.model
        if self.fault == "stale":
            return
        if file.name == "adapter_model.safetensors":
            import peft

            peft.set_peft_model_state_dict(model, tensors)
        else:
            missing = model.load_state_dict(tensors, strict=False)
            assert not missing.unexpected_keys

    def generate(self, body: Any) -> tuple[int, Any]:
        """Draw from the weights that it holds."""
        if self.fault == "model" or body["model"] not in self.adapters:
            return 404, {"error": f"The model `{body['model']}` does not exist."}
        options, ids = body["sampling_params"], torch.tensor([body["token_ids"]])
        sampling = Sampling(
            options["n"],
            min(options["max_tokens"], 3) if self.fault == "short" else options["max_tokens"],
            options["temperature"],
            options["top_p"],
            options["top_k"],
            options["min_p"],
        )
        uids = torch.tensor([options["seed"]])
        batch = PromptBatch(0, uids, ((),), ids, torch.ones_like(ids).bool())
        with self.lock, torch.no_grad():
            self.prompts.append(body["token_ids"])
            rollout = NativeSampler().sample(self.policy, batch, sampling, 0)
            rollout = replace(rollout, sampler_logprobs=self.reported(rollout, sampling))
        version = "another" if self.fault == "version" else self.version
        return 200, {"choices": [self.choice(rollout, i, version) for i in range(options["n"])]}

    def reported(self, rollout: Rollout, sampling: Sampling) -> Tensor:
        """The log-probabilities of the responses' tokens that vLLM reports in this mode."""
        raw = self.logprobs == "raw_logprobs"
        if (raw and sampling.temperature == 1) or (not raw and not sampling.cuts):
            return rollout.sampler_logprobs  # the sampler's own: behind temperature, before the cut
        size, prompt = rollout.group_size, rollout.prompts.input_ids
        whole = torch.cat([prompt.repeat_interleave(size, 0), rollout.response_ids], 1)
        logits = self.policy.model(whole).logits[:, prompt.shape[1] - 1 : -1].float()
        if not raw:
            weights = (logits / sampling.temperature).softmax(-1).flatten(0, 1)
            floor = filter_floor(weights, sampling.top_p, sampling.top_k, sampling.min_p)
            kept = weights.masked_fill(weights < floor, 0).view_as(logits)
            logits = kept.log()
        return logits.log_softmax(-1).gather(-1, rollout.response_ids[..., None])[..., 0]

    def choice(self, rollout: Any, row: int, version: str) -> dict[str, Any]:
        """One response as vLLM writes it."""
        mask = rollout.response_mask[row]
        ids, logprobs = rollout.response_ids[row][mask], rollout.sampler_logprobs[row][mask]
        if self.fault == "vocabulary":
            ids = ids + 10_000
        pairs = zip(ids.tolist(), logprobs.tolist(), strict=True)
        ended = "stop" if rollout.finished[row] else "length"
        return {
            "index": row,
            "token_ids": ids.tolist(),
            "finish_reason": "abort" if self.fault == "abort" else ended,
            "logprobs": {"content": [{"token_id": i, "logprob": p} for i, p in pairs]},
            "weight_versions": [{"version": version, "start": 0}],
        }


def _handler(fake: FakeVLLM) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def respond(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            path, generating = urlsplit(self.path).path, "generate" in self.path
            if fake.fault == "dead" or (fake.fault == "slow" and generating):
                time.sleep(fake.sleep if fake.fault == "slow" else 0)
                self.close_connection = True
                return
            crashed = fake.fault == "crashed" and generating
            status, found = (500, {}) if crashed else fake.answer(self.command, path, body)
            text = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            half = fake.fault == "truncated" and generating
            self.wfile.write(text[: len(text) // 2] if half else text)
            self.close_connection = True

        do_GET = do_POST = respond

    return Handler


@contextmanager
def serving(fake: FakeVLLM) -> Iterator[str]:
    """The address of a server that runs while the block does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
