"""``task=benchmark`` from the composed configuration to the table, past a judge over HTTP."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from gprl_lightning.benchmarks.mt_bench import MTBench
from gprl_lightning.benchmarks.run import run_benchmark
from gprl_lightning.config.validation import validate
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.policy import save_policy
from tests.benchmark_suites.folders import arena_folder, mt_folder
from tests.benchmark_suites.test_sources import with_checksums
from tests.chat_server import Reply, chat_server
from tests.composing import composed
from tests.tiny import tiny_policy


def benchmark(tmp_path: Path, *overrides: str) -> tuple[float | None, dict]:
    """Run MT-Bench's six questions, or what `overrides` say; the value and ``benchmark.json``."""
    if not (tmp_path / "policy").exists():
        save_policy(tiny_policy(), tmp_path / "policy")
        mt_folder(tmp_path / "mt")
    cfg = composed(
        "task=benchmark",
        "benchmark=mt_bench",
        "logger=none",
        f"benchmark.path={tmp_path}/mt",
        f"policy.path={tmp_path}/policy",
        f"paths.cache={tmp_path}/cache",
        "benchmark.max_new_tokens=6",
        "judge.backoff=0.01",
        *overrides,
    )
    value = run_benchmark(validate(cfg), cfg, tmp_path / "run")
    file = tmp_path / "run/benchmark.json"
    return value, json.loads(file.read_text()) if file.exists() else {}


def seven(body, number):
    return Reply("Rating: [[7]]")


def test_answers_verdicts_and_figures_are_kept(tmp_path, capsys):
    with chat_server(seven) as server:
        value, result = benchmark(tmp_path, f"judge.base_url={server.url}", "judge.model=rule")
    assert value == 7 and result["report"]["figures"][0]["value"] == 7
    assert {r["model"] for r in server.requests} == {"rule"} and len(server.requests) == 12
    assert result["judge"] == "rule" and result["published_questions"] is False
    assert result["judge_reported"] == ["m"], "what the server calls itself"
    assert any("not by the published judge gpt-4" in w for w in result["warnings"])
    assert any("not the published set" in w for w in result["warnings"])
    rows = (tmp_path / "run/data/mt_bench/model_answer/policy.jsonl").read_text().splitlines()
    assert len(rows) == 6 and all(json.loads(r)["choices"][0]["turns"] for r in rows)
    assert (tmp_path / "run/data/mt_bench/model_judgment/rule_single.jsonl").exists()
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["final"]["mt_bench/score"] == 7
    out = capsys.readouterr().out
    assert "12 of 12" in out and "score" in out and "Judging: 12 calls of the judge" in out


def test_a_judge_s_answer_is_paid_for_once(tmp_path):
    """A second run asks only what the first did not get."""
    sick = {"ill": True}

    def rule(body, number):
        bad = "rain" in body["messages"][-1]["content"] and sick["ill"]
        return Reply(status=503, body=b"") if bad else seven(body, number)

    with chat_server(rule) as server:
        address = f"judge.base_url={server.url}"
        _, first = benchmark(tmp_path, address, "judge.retries=1")
        assert first["report"]["missing"] == {"server": 2}
        assert any("2 of 12 verdicts are missing: 2 server" in w for w in first["warnings"])
        asked = len(server.requests)
        sick["ill"] = False
        _, second = benchmark(tmp_path, address, "judge.retries=1")
        assert len(server.requests) == asked + 2
    assert second["usage"]["cached"] == 10 and not second["report"]["missing"]


def test_a_sick_judge_loses_nothing_but_what_it_does_not_answer(tmp_path):
    """Nonsense, a refusal, a slow answer, one that breaks off, a rate limit: each by its name."""
    begun = time.monotonic()
    told = []

    def rule(body, number):
        text = body["messages"][-1]["content"]
        if "[Q2]" in text:
            return seven(body, number)
        if "rain" in text:
            return Reply("Blue.")
        if "bread" in text:
            return Reply(None, message={"refusal": "No."})
        if "chess" in text:
            return Reply("Rating: [[1]]", seconds=2.0)
        if "moss" in text:
            return Reply("Rating: [[1]]", cut=True)
        if "tides" in text and not told:
            told.append(time.monotonic() - begun)
            return Reply(status=429, headers={"Retry-After": "0.2"}, body=b"")
        return Reply("Rating: [[3]]")

    with chat_server(rule) as server:
        _, result = benchmark(
            tmp_path, f"judge.base_url={server.url}", "judge.retries=2", "judge.timeout=0.5"
        )
    assert result["report"]["missing"] == {
        "no verdict in the text": 1, "refused": 1, "timeout": 1, "connection": 1,
    }  # fmt: skip
    assert told and result["report"]["figures"][0]["value"] == pytest.approx((6 * 7 + 3 + 3) / 8)


def test_a_plan_tells_the_cost_and_asks_nobody(tmp_path, capsys):
    with chat_server(seven) as server:
        value, result = benchmark(
            tmp_path,
            "plan=true",
            f"judge.base_url={server.url}",
            "judge.price_prompt=10",
            "judge.price_completion=30",
        )
    assert value is None and result == {} and not server.requests
    out = capsys.readouterr().out
    assert "Plan: 12 calls of the judge" in out and "completion tokens; about 0." in out
    assert not (tmp_path / "run").exists()


def test_a_task_without_a_plan_refuses_to_make_one():
    with pytest.raises(ConfigError, match="plan=True: expected false for task=detector_study"):
        validate(composed("task=detector_study", "plan=true"))


def test_fields_of_ones_own_go_into_each_request_and_are_told(tmp_path, capsys):
    """Another answer is paid for, as another question was asked."""
    with chat_server(seven) as server:
        address = f"judge.base_url={server.url}"
        _, plain = benchmark(tmp_path, address)
        assert not any("structured_outputs" in body for body in server.requests)
        _, result = benchmark(tmp_path, address, "+judge.extra.structured_outputs.regex='[1-9]'")
        assert len(server.requests) == 24
    assert all(b["structured_outputs"] == {"regex": "[1-9]"} for b in server.requests[12:])
    told = "The judge was asked with {'structured_outputs': {'regex': '[1-9]'}}"
    assert any(w.startswith(told) for w in result["warnings"])
    assert not any("was asked with" in w for w in plain["warnings"])


def test_a_limit_takes_the_first_questions(tmp_path):
    with chat_server(seven) as server:
        _, result = benchmark(tmp_path, f"judge.base_url={server.url}", "benchmark.limit=2")
    assert result["questions"] == 2 and len(server.requests) == 4


def test_without_a_judge_the_answers_are_written_for_others_to_judge(tmp_path, capsys):
    value, result = benchmark(tmp_path)
    assert value is None and result == {}
    file = tmp_path / "run/data/mt_bench/model_answer/policy.jsonl"
    assert file.exists() and "No judge: judge.base_url is not set." in capsys.readouterr().out
    with chat_server(seven) as server:
        given = f"benchmark.answers={file}"
        value, result = benchmark(tmp_path, f"judge.base_url={server.url}", given)
    assert value == 7 and result["model"] == "policy"


def test_a_position_bias_marks_the_figures(tmp_path, capsys):
    arena_folder(tmp_path / "arena", "v0.1", {"arena-hard-v0.1": "gpt-4-0314"})
    chosen = ["benchmark=arena_hard_v0_1", f"benchmark.path={tmp_path}/arena"]
    with chat_server(lambda *_: Reply("[[A>B]]")) as server:
        _, result = benchmark(tmp_path, f"judge.base_url={server.url}", *chosen)
        assert result["biased"] and "‡" in capsys.readouterr().out
        assert any(w.startswith("Position bias: the answer that") for w in result["warnings"])
        _, result = benchmark(
            tmp_path, f"judge.base_url={server.url}", *chosen, "benchmark.max_position_bias=0.5"
        )
        assert not result["biased"]


def test_questions_of_the_published_checksums_are_called_so(tmp_path, monkeypatch):
    """They lie in the cache; a limit takes a part of them, which is no published set."""
    cache = mt_folder(tmp_path / "cache/benchmarks/mt_bench")
    files = with_checksums(MTBench().files(), lambda f: cache / f.local)
    monkeypatch.setattr(MTBench, "files", lambda self: files)
    with chat_server(seven) as server:
        chosen = ["benchmark.path=null", f"judge.base_url={server.url}"]
        _, result = benchmark(tmp_path, *chosen)
        assert result["published_questions"] is True
        _, part = benchmark(tmp_path, *chosen, "benchmark.limit=2")
        assert part["published_questions"] is False
    (cache / "question.jsonl").write_text("{}\n")
    monkeypatch.setenv("GITHUB_RAW_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="cannot be downloaded"):
        benchmark(tmp_path, "benchmark.path=null")


def test_a_benchmark_must_be_chosen(tmp_path):
    with pytest.raises(ConfigError, match="benchmark=none: expected a benchmark"):
        benchmark(tmp_path, "benchmark=none")


@pytest.mark.parametrize(
    "override,message",
    [
        ("benchmark.limit=0", "benchmark.limit=0: expected >= 1"),
        ("benchmark.max_position_bias=1", "benchmark.max_position_bias=1.0: expected in"),
        ("judge.timeout=0", "judge.timeout=0.0: expected in (0, 86400]"),
        ("judge.price_prompt=1", "judge.price_completion=(1.0, None): expected both"),
        ("judge.concurrency=0", "judge.concurrency=0: expected >= 1"),
    ],
)
def test_each_mistake_is_refused_by_name(override, message):
    with pytest.raises(ConfigError) as refused:
        validate(composed("task=benchmark", "benchmark=mt_bench", override))
    assert message in str(refused.value)
