"""Against a real vLLM server on the CPU: `make test-vllm` sets its environment up.

``VLLM_PYTHON`` is the interpreter of that environment. The server starts once for all tests.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gprl_lightning.config import LoraConfig, PolicyConfig
from gprl_lightning.errors import SamplerFailed, WrongWeights
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.policy import load_policy
from gprl_lightning.modules.rollout_logprobs import logprobs_of
from gprl_lightning.rollout import vllm_push
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.rollout.vllm_http import Server
from gprl_lightning.rollout.vllm_server import VLLMServerSampler
from gprl_lightning.rollout.vllm_start import parse, start, stop
from tests.tiny import chat

pytestmark = pytest.mark.vllm
TEXTS = [f"Write a short review of a {thing}." for thing in ("kettle", "chair", "film", "hotel")]
EIGHT = Sampling(8, 40)
LIMIT = 1e-4  # nats, in float32; two correct computations stay within


def sandbox_policy(lora: LoraConfig | None = None):
    folder = policy_folder("sandbox", ".cache/gprl")
    return load_policy(PolicyConfig(path=str(folder), lora=lora), folder, 1.0)


def served(folder: Path, port: int, *more: str):
    python = os.environ["VLLM_PYTHON"]
    words = ["--python", python, "--model", str(policy_folder("sandbox", ".cache/gprl"))]
    words += ["--port", str(port), "--log", str(folder / "server.log"), *more]
    return start(parse([*words, "--", "--dtype", "float32", "--enforce-eager"]))


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    if given := os.environ.get("VLLM_URL"):  # a server that is up already
        yield given
        return
    process = served(tmp_path_factory.mktemp("vllm"), 8471)
    yield "http://127.0.0.1:8471"
    stop(process)


def prompts_of(policy, iteration: int = 0):
    return policy.encode_prompts(iteration, [0, 1, 2, 3], [chat(t) for t in TEXTS], 256)


def gaps(policy, rollout) -> torch.Tensor:
    rows = torch.arange(len(rollout.responses))
    own = logprobs_of(policy, rollout, rows.split(8))
    return (own - rollout.sampler_logprobs)[rollout.response_mask].abs()


def moved(policy, seed: int, scale: float = 0.2) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                noise = parameter.std() + 0.05 * (parameter.std() == 0)
                parameter += scale * noise * torch.randn_like(parameter)


@pytest.mark.parametrize("transfer", ["folder", "broadcast"])
def test_logprobs_are_the_policys_after_every_push(url, transfer):
    policy = sandbox_policy()
    sampler = VLLMServerSampler([url], transfer=transfer)
    for version in range(3):
        moved(policy, version)
        before = time.perf_counter()
        sampler.weights_changed(policy, version)
        pushed = time.perf_counter()
        rollout = sampler.sample(policy, prompts_of(policy, version), EIGHT, 0)
        taken = time.perf_counter() - pushed
        found, tokens = gaps(policy, rollout), int(rollout.response_mask.sum())
        print(f"{transfer} {version}: push and probe {pushed - before:.2f} s,", end=" ")
        print(f"{tokens / taken:.0f} tokens/s, max {found.max():.1e} mean {found.mean():.1e}")
        assert found.max() < LIMIT
        assert rollout.version == version and rollout.finished.any()
    again = sampler.sample(policy, prompts_of(policy, 2), EIGHT, 0)
    assert torch.equal(again.response_ids, rollout.response_ids)
    assert torch.equal(again.sampler_logprobs, rollout.sampler_logprobs)


@pytest.mark.parametrize("options", [{"top_k": 4}, {"top_p": 0.6}, {"min_p": 0.2}], ids=str)
def test_raw_logprobs_are_those_before_the_cut(url, options):
    policy = sandbox_policy()
    sampler = VLLMServerSampler([url])
    sampler.weights_changed(policy, 0)
    rollout = sampler.sample(policy, prompts_of(policy), Sampling(8, 24, **options), 0)
    assert gaps(policy, rollout).max() < LIMIT
    whole = sampler.sample(policy, prompts_of(policy), Sampling(8, 24), 0)
    assert rollout.responses != whole.responses


def test_the_engines_own_reload_is_caught_by_the_probe(url, monkeypatch):
    """On a CPU it answers 200 and leaves a tied output layer stale."""

    def by_itself(server, folder, version):
        with vllm_push.replacing(server, version):
            body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            server.post("/collective_rpc", body)

    policy = sandbox_policy()
    sampler = VLLMServerSampler([url])
    sampler.weights_changed(policy, 0)
    moved(policy, 1)
    monkeypatch.setattr(vllm_push, "push_folder", by_itself)
    with pytest.raises(WrongWeights, match="found a difference of"):
        sampler.weights_changed(policy, 1)


def test_a_prefix_cache_that_is_not_emptied_is_caught_by_the_probe(url, monkeypatch):
    policy = sandbox_policy()
    sampler = VLLMServerSampler([url])
    sampler.weights_changed(policy, 0)
    post = Server.post

    def no_reset(self, path, body=None, **query):
        if path == "/pause":  # which would empty it, too
            query["clear_cache"] = "false"
        if path == "/reset_prefix_cache":
            return {"success": True}
        return post(self, path, body, **query)

    monkeypatch.setattr(Server, "post", no_reset)
    moved(policy, 1)
    with pytest.raises(WrongWeights, match="found a difference of"):
        sampler.weights_changed(policy, 1)


def test_another_model_and_a_prompt_that_is_too_long(url):
    policy = sandbox_policy()
    with pytest.raises(SamplerFailed, match="404"):
        VLLMServerSampler([url], model="other").weights_changed(policy, 0)
    sampler = VLLMServerSampler([url])
    sampler.weights_changed(policy, 0)
    ids = prompts_of(policy).input_ids[:1].repeat(1, 99)[:, :250]
    long = replace(prompts_of(policy), input_ids=ids, mask=torch.ones_like(ids).bool())
    long = replace(long, uids=long.uids[:1], messages=long.messages[:1])
    with pytest.raises(SamplerFailed, match="max-model-len"):
        sampler.sample(policy, long, Sampling(16, 60), 0)


def test_adapters_alone_and_a_server_that_is_killed(tmp_path):
    policy = sandbox_policy(LoraConfig(r=4, alpha=8))
    process = served(tmp_path, 8472, "--lora-rank", "8")
    try:
        sampler = VLLMServerSampler(["http://127.0.0.1:8472"])
        for version in range(2):
            moved(policy, version)
            sampler.weights_changed(policy, version)
            rollout = sampler.sample(policy, prompts_of(policy, version), EIGHT, 0)
            print(f"adapters {version}: max {gaps(policy, rollout).max():.1e}")
            assert gaps(policy, rollout).max() < LIMIT
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with pytest.warns(UserWarning, match="left out"), pytest.raises(SamplerFailed):
            sampler.sample(policy, prompts_of(policy, 2), EIGHT, 0)
    finally:
        stop(process)
