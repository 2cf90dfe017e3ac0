"""``task=benchmark``: how the policy's answers are made, by which sampler, and only once."""

from __future__ import annotations

import json

import pytest

from gprl_lightning.rollout.native import NativeSampler
from tests.benchmark_suites.folders import CATEGORIES
from tests.benchmark_suites.test_run import benchmark
from tests.rollout.fake_vllm import FakeVLLM, serving
from tests.tiny import tiny_policy


def test_answers_that_are_made_are_not_made_again(tmp_path, monkeypatch):
    """A run dies after its third batch; the same command makes the rest alone, as it would have."""
    drawn, sample = [], NativeSampler.sample

    def counted(self, policy, prompts, sampling, seed):
        if len(drawn) == 3 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            raise RuntimeError("the machine is gone")
        drawn.append([m[-1]["content"] for m in prompts.messages])
        return sample(self, policy, prompts, sampling, seed)

    file = tmp_path / "run/data/mt_bench/model_answer/policy.jsonl"
    benchmark(tmp_path, "benchmark.batch_size=2")
    whole = file.read_text()
    (tmp_path / "run/answers.jsonl").unlink()
    monkeypatch.setattr(NativeSampler, "sample", counted)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        benchmark(tmp_path, "benchmark.batch_size=2")
    benchmark(tmp_path, "benchmark.batch_size=2")
    batches = len(drawn)
    assert file.read_text() == whole
    assert sum(map(len, drawn)) == 12, "each turn of each question once"
    benchmark(tmp_path, "benchmark.batch_size=2")
    assert len(drawn) == batches, "nothing is left to do"
    benchmark(tmp_path, "benchmark.batch_size=2", "seed=1")
    assert len(drawn) > batches, "another seed has other answers"


def test_a_vllm_server_answers_as_the_native_sampler_does(tmp_path):
    """Greedily, so that no random number is in it: maths is asked at temperature 0."""
    file = tmp_path / "run/data/mt_bench/model_answer/policy.jsonl"
    benchmark(tmp_path)
    native = {r["question_id"]: r["choices"] for r in map(json.loads, file.open())}
    fake = FakeVLLM(tiny_policy(seed=1))
    with serving(fake) as url:
        chosen = ["rollout=vllm_server", f"rollout.sampler.urls=[{url}]"]
        benchmark(tmp_path, *chosen)
    served = {r["question_id"]: r["choices"] for r in map(json.loads, file.open())}
    assert fake.calls.count("/collective_rpc") == 1, "it has the policy's weights now"
    assert len(fake.prompts) == 12 + 1, "each turn of each question, and the probe"
    greedy = [81 + CATEGORIES.index(c) for c in ("math", "coding", "extraction")]
    assert [served[n] for n in greedy] == [native[n] for n in greedy]
