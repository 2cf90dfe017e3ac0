"""Against a real vLLM server on the CPU: `make test-vllm` sets its environment up.

``VLLM_PYTHON`` is the interpreter of that environment. The server starts once for all tests.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from gprl_lightning.config import LoraConfig, PolicyConfig
from gprl_lightning.core.batch import PromptBatch
from gprl_lightning.errors import ConfigError, SamplerFailed, WrongWeights
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.policy import load_policy
from gprl_lightning.modules.rollout_logprobs import logprobs_of
from gprl_lightning.rollout import vllm_push
from gprl_lightning.rollout.engine_samples import as_rollout, engine_options, prompt_rows
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.rollout.vllm_http import Server
from gprl_lightning.rollout.vllm_server import VLLMServerSampler
from gprl_lightning.rollout.vllm_start import parse, start, stop
from tests.tiny import chat

pytestmark = pytest.mark.vllm
TEXTS = [f"Write a short review of a {thing}." for thing in ("kettle", "chair", "film", "hotel")]
EIGHT = Sampling(8, 40)
LIMIT = 1e-4  # nats, in float32; two correct computations stay within


def sandbox_policy(lora: LoraConfig | None = None, temperature: float = 1.0):
    folder = policy_folder("sandbox", ".cache/gprl")
    return load_policy(PolicyConfig(path=str(folder), lora=lora), folder, temperature)


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


def test_throughput_beside_the_native_sampler(url):
    """No bound, as the machine may be busy: `docs/vllm.md` has the figures."""
    policy, served = sandbox_policy(), VLLMServerSampler([url])
    served.weights_changed(policy, 0)
    for name, sampler in (("native", NativeSampler()), ("served", served)) * 3:
        begun, busy = time.perf_counter(), time.process_time()
        rollout = sampler.sample(policy, prompts_of(policy), Sampling(16, 64), 0)
        tokens, taken = int(rollout.response_mask.sum()), time.perf_counter() - begun
        busy = time.process_time() - busy
        print(f"{name}: {tokens / taken:.0f} tokens/s; {busy:.2f} s of CPU in the trainer")
        assert tokens > 0


def statistics_of(rollout, first: int) -> dict[str, torch.Tensor]:
    """One number for each response: what two samplers of one distribution agree on, on average."""
    mask, logprobs = rollout.response_mask, rollout.sampler_logprobs
    ids = rollout.response_ids
    return {
        "length": mask.sum(1).double(),
        "finished": rollout.finished.double(),
        "surprise": -(logprobs * mask).sum(1).double(),
        "distinct": torch.tensor([len(set(r[m].tolist())) for r, m in zip(ids, mask, strict=True)]),
        "first token": (ids[:, 0] == first).double(),
    }


@pytest.mark.parametrize("options", [{}, {"top_p": 0.8}, {"top_k": 8}], ids=str)
def test_responses_are_of_the_distribution_that_the_native_sampler_draws_from(url, options):
    """4 × 128 responses of each: no mean is further off than 4 standard errors."""
    policy, served = sandbox_policy(), VLLMServerSampler([url])
    served.weights_changed(policy, 0)
    sampling = Sampling(128, 48, **options)
    both = [s.sample(policy, prompts_of(policy), sampling, 5) for s in (NativeSampler(), served)]
    commonest = int(both[0].response_ids[:, 0].mode().values)
    native, engine = (statistics_of(rollout, commonest) for rollout in both)
    for name, ours in native.items():
        ours, theirs = ours.double(), engine[name].double()
        error = float((ours.var() / len(ours) + theirs.var() / len(theirs)).sqrt())
        z = float(ours.mean() - theirs.mean()) / max(error, 1e-9)
        print(f"{options} {name}: {ours.mean():.3f} native, {theirs.mean():.3f} served, z {z:+.1f}")
        assert abs(z) < 4, name


@pytest.mark.parametrize("options", [{"top_k": 4}, {"top_p": 0.6}, {"min_p": 0.2}], ids=str)
def test_raw_logprobs_are_those_before_the_cut(url, options):
    policy = sandbox_policy()
    sampler = VLLMServerSampler([url])
    sampler.weights_changed(policy, 0)
    rollout = sampler.sample(policy, prompts_of(policy), Sampling(8, 24, **options), 0)
    assert gaps(policy, rollout).max() < LIMIT
    whole = sampler.sample(policy, prompts_of(policy), Sampling(8, 24), 0)
    assert rollout.responses != whole.responses


def test_temperature_and_cut_against_a_server_of_processed_logprobs(tmp_path):
    """Behind a temperature they are the policy's; behind a cut they are of the cut distribution,
    which a probe sees at temperature 1 and which is refused at any other."""
    process = served(tmp_path, 8473, "--logprobs", "processed_logprobs")
    try:
        for temperature in (0.7, 1.0):
            policy = sandbox_policy(temperature=temperature)
            sampler = VLLMServerSampler(["http://127.0.0.1:8473"])
            sampler.weights_changed(policy, 0)
            whole = Sampling(8, 24, temperature)
            assert gaps(policy, sampler.sample(policy, prompts_of(policy), whole, 0)).max() < LIMIT
            cut = Sampling(8, 24, temperature, top_k=4)
            words = "raw_logprobs" if temperature == 1 else r"rollout\.temperature=0\.7 with"
            with pytest.raises(ConfigError, match=words):
                sampler.sample(policy, prompts_of(policy), cut, 0)
            engine = engine_options(cut, policy.eos_ids) | {"seed": 0}
            row = prompt_rows(prompts_of(policy))[0]
            samples = sampler.peers[0].server.generate(row, engine)
            prompts = policy.encode_prompts(0, [0], [chat(TEXTS[0])], 256)
            gap = gaps(policy, as_rollout(policy, prompts, cut, [samples], 0)).max()
            print(f"temperature {temperature}, top_k=4: off by {gap:.2f} nats")
            assert gap > 0.1
    finally:
        stop(process)


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
    short = prompts_of(policy)
    ids = short.input_ids[:1].repeat(1, 99)[:, :250]
    mask = torch.ones_like(ids).bool()
    long = PromptBatch(0, short.uids[:1], short.messages[:1], ids, mask)
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
