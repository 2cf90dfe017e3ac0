"""The chat client against a real server: concurrent, patient, cached, and nothing lost."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from email.utils import formatdate

import pytest

from gprl_lightning.errors import ConfigError
from gprl_lightning.runtime.chat import Answer, ChatRequest, Failure, Price
from gprl_lightning.runtime.endpoint import BlockingEndpoint, ChatEndpoint, EndpointOptions
from tests.chat_server import Reply, chat_server


def asked(text: str, **options) -> ChatRequest:
    return ChatRequest([{"role": "user", "content": text}], **options)


def options(server, **changed) -> EndpointOptions:
    return EndpointOptions(server.url, "m", **{"backoff": 0.01, "timeout": 5.0, **changed})


@contextmanager
def asking(rule, **changed):
    """Yield a server that follows `rule`, and a client of it."""
    with chat_server(rule) as server, BlockingEndpoint(options(server, **changed)) as endpoint:
        yield server, endpoint


def echo(body, number) -> Reply:
    return Reply(body["messages"][-1]["content"].upper())


def failing(first, times: int = 1):
    """A server that replies `first` to a question's first `times` requests, then answers."""
    tries: Counter[str] = Counter()

    def rule(body, number):
        question = body["messages"][-1]["content"]
        tries[question] += 1
        return first if tries[question] <= times else echo(body, number)

    return rule


def test_answers_come_in_the_order_of_the_questions_and_are_counted():
    def rule(body, number):
        reply = echo(body, number)
        reply.seconds = 0.02 * (number % 3)
        return reply

    with chat_server(rule) as server, BlockingEndpoint(options(server)) as endpoint:
        seen = []
        answers = endpoint.ask_all(
            [asked(f"a b {i}") for i in range(20)], lambda *n: seen.append(n)
        )
    assert [a.text for a in answers] == [f"A B {i}" for i in range(20)]
    assert seen == [(i, 20) for i in range(1, 21)]
    usage = endpoint.usage
    assert (usage.calls, usage.answers, usage.failures) == (20, 20, 0)
    assert (usage.prompt_tokens, usage.completion_tokens) == (60, 60)
    assert usage.cost(Price(prompt=1e4, completion=2e4)) == pytest.approx(0.6 + 1.2)
    assert usage.line(Price(1e4, 2e4)).endswith("60 prompt and 60 completion tokens; cost 1.80")


@pytest.mark.parametrize("places", [1, 4])
def test_no_more_requests_are_under_way_than_concurrency_says(places):
    rule = lambda body, number: Reply(seconds=0.05)  # noqa: E731
    with chat_server(rule) as server:
        with BlockingEndpoint(options(server, concurrency=places)) as endpoint:
            endpoint.ask_all([asked(str(i)) for i in range(12)])
        assert server.most_under_way == places


def test_every_option_of_a_request_reaches_the_server():
    request = asked(
        "?",
        temperature=0.7,
        max_tokens=3,
        top_p=0.9,
        seed=5,
        top_logprobs=2,
        extra={"guided_choice": ["m", "M"]},
    )
    with chat_server(echo) as server, BlockingEndpoint(options(server)) as endpoint:
        endpoint.ask_all([request, asked("plain")])
    full, plain = sorted(server.requests, key=len, reverse=True)
    message = {"role": "user", "content": "?"}
    assert full == {
        "model": "m",
        "messages": [message],
        "temperature": 0.7,
        "max_tokens": 3,
        "top_p": 0.9,
        "seed": 5,
        "logprobs": True,
        "top_logprobs": 2,
        "guided_choice": ["m", "M"],
    }
    assert sorted(plain) == ["max_tokens", "messages", "model", "temperature"]


def test_the_alternatives_of_each_token_are_returned_and_kept(tmp_path):
    tops = [{"m": -0.1, "M": -2.5}, {"!": -0.5}]
    rule = lambda body, number: Reply("m!", top_logprobs=tops)  # noqa: E731
    with chat_server(rule) as server:
        for cached in (False, True):
            with BlockingEndpoint(options(server), tmp_path) as endpoint:
                answer = endpoint.ask(asked("?", top_logprobs=5))
            assert answer == Answer("m!", "stop", 1, 1, tuple(tops), cached, model="m")
    assert len(server.requests) == 1


TRANSIENT = {
    "rate limit": Reply(status=429, body=b"slow down"),
    "server error": Reply(status=503, body=b"busy"),
    "dies half-way": Reply("some words", cut=True),
    "slow": Reply(seconds=1.0),
    "a page of HTML": Reply(body=b"<html>gateway</html>"),
    "no choices": Reply(body=b'{"choices": []}'),
    "a number": Reply(body=b"7"),
}


@pytest.mark.parametrize("reply", TRANSIENT.values(), ids=TRANSIENT)
def test_what_may_pass_is_tried_again(reply):
    with asking(failing(reply), timeout=0.5) as (server, endpoint):
        answers = endpoint.ask_all([asked("a"), asked("b")])
    assert [a.text for a in answers] == ["A", "B"]
    assert endpoint.usage.calls == len(server.requests) == 4


LASTING = [
    (Reply(status=429, body=b"slow down"), "rate_limit", "HTTP 429: slow down", 3),
    (Reply(status=500, body=b"oh"), "server", "HTTP 500: oh", 3),
    (Reply("some words", cut=True), "connection", "RemoteProtocolError", 3),
    (Reply(seconds=1.0), "timeout", "no answer within 0.3 s", 3),
    (Reply(body=b"<html>"), "nonsense", "expected JSON, found '<html>'", 3),
    (Reply(body=b"{}"), "nonsense", "expected a chat completion, found {}", 3),
    (Reply(body=b'{"choices": [{"message": {"content": [1]}}]}'), "nonsense", "found [1]", 3),
    (Reply(status=400, body=b"too long"), "rejected", "HTTP 400: too long", 1),
    (Reply(status=401, body=b"who?"), "rejected", "HTTP 401: who?", 1),
    (Reply(None), "refused", "no text", 1),
    (Reply("No.", message={"refusal": "I will not"}), "refused", "I will not", 1),
    (Reply("half", finish_reason="content_filter"), "refused", "content_filter", 1),
]


@pytest.mark.parametrize("reply,kind,detail,calls", LASTING)
def test_what_lasts_is_a_failure_with_its_reason_and_loses_nothing_else(
    reply, kind, detail, calls, tmp_path
):
    rule = lambda body, n: reply if body["messages"][0]["content"] == "bad" else echo(body, n)  # noqa: E731
    with chat_server(rule) as server:
        kept = options(server, retries=2, timeout=0.3)
        with BlockingEndpoint(kept, tmp_path) as endpoint:
            good, bad, last = endpoint.ask_all([asked("a"), asked("bad"), asked("b")])
        assert isinstance(bad, Failure) and bad.kind == kind and detail in bad.detail
        assert (good.text, last.text) == ("A", "B")
        assert endpoint.usage.failures == 1 and endpoint.usage.calls == calls + 2
        assert len(list(tmp_path.rglob("*.json"))) == 2, "failures are not kept"


def test_a_server_that_is_not_there_is_a_failure():
    with BlockingEndpoint(
        EndpointOptions("http://127.0.0.1:9/v1", "m", retries=1, backoff=0.01)
    ) as endpoint:
        result = endpoint.ask(asked("a"))
    assert isinstance(result, Failure) and result.kind == "connection"
    assert endpoint.usage.calls == 2


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_holds_for_every_request(form):
    """The first request is told to wait; the others, which follow it, wait as long."""
    told = []

    def rule(body, number):
        if number > 0:
            return echo(body, number)
        told.append(time.monotonic())
        value = "0.6" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
        return Reply(status=429, headers={"Retry-After": value}, body=b"")

    with asking(rule, concurrency=1) as (server, endpoint):
        answers = endpoint.ask_all([asked("a"), asked("b"), asked("c")])
    assert [a.text for a in answers] == ["A", "B", "C"]
    # An HTTP date has whole seconds, so that two of them may be little more than one.
    assert min(server.times[1:]) - told[0] >= (0.6 if form == "seconds" else 0.9)


def test_longest_wait_bounds_what_a_server_may_ask_for():
    told = Reply(status=429, headers={"Retry-After": "3600"}, body=b"")
    with asking(failing(told), longest_wait=0.1) as (server, endpoint):
        assert endpoint.ask(asked("a")).text == "A"
    assert 0.1 <= server.times[1] - server.times[0] < 3


def test_the_pauses_between_retries_double():
    rule = lambda body, n: Reply(status=500, body=b"")  # noqa: E731
    with asking(rule, retries=3, backoff=0.1) as (server, endpoint):
        endpoint.ask(asked("a"))
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    for gap, low in zip(gaps, (0.075, 0.15, 0.3), strict=True):
        assert gap >= low, gaps


def test_an_answer_is_asked_for_once_and_another_address_finds_it(tmp_path):
    requests = [asked("a"), asked("b"), asked("a", seed=1), asked("a")]
    with chat_server(echo) as server, BlockingEndpoint(options(server), tmp_path) as endpoint:
        endpoint.ask_all(requests)
        assert len(server.requests) == 3, "equal requests under way together are one"
    with chat_server(echo) as server:
        with BlockingEndpoint(options(server), tmp_path) as endpoint:
            answers = endpoint.ask_all(requests)
            assert all(a.cached for a in answers) and not server.requests
            assert (endpoint.usage.cached, endpoint.usage.calls) == (4, 0)
            assert endpoint.usage.prompt_tokens == 0, "they were paid for before"
        other = EndpointOptions(server.url, "another model")
        with BlockingEndpoint(other, tmp_path) as endpoint:
            endpoint.ask(asked("a"))
            endpoint.ask(asked("a", temperature=0.5))
        assert len(server.requests) == 2


def _truncated(file):
    file.write_text(file.read_text()[:-20])


def _changed(file):
    file.write_text(file.read_text().replace('"A"', '"Z"'))


def _of_another_request(file):
    entry = json.loads(file.read_text())
    entry["request"]["seed"] = 7
    file.write_text(json.dumps(entry))


def _emptied(file):
    file.write_bytes(b"\xff")


def _of_another_form(file):
    file.write_text("[]")


@pytest.mark.parametrize(
    "harm", [_truncated, _changed, _of_another_request, _emptied, _of_another_form]
)
def test_a_harmed_entry_is_asked_again_and_mended(harm, tmp_path):
    with chat_server(echo) as server:
        for _ in range(3):
            with BlockingEndpoint(options(server), tmp_path) as endpoint:
                assert endpoint.ask(asked("a")).text == "A"
            if len(server.requests) == 1:
                (file,) = tmp_path.rglob("*.json")
                harm(file)
        assert len(server.requests) == 2


PROCESS = """
import sys
from pathlib import Path
from gprl_lightning.runtime.chat import ChatRequest
from gprl_lightning.runtime.endpoint import BlockingEndpoint, EndpointOptions
with BlockingEndpoint(EndpointOptions(sys.argv[1], "m"), Path(sys.argv[2])) as endpoint:
    asked = [ChatRequest([{"role": "user", "content": f"q{i}"}]) for i in range(40)]
    print(sorted(a.text for a in endpoint.ask_all(asked)) == sorted(f"Q{i}" for i in range(40)))
"""


def test_processes_share_a_cache(tmp_path):
    with chat_server(echo) as server:
        command = [sys.executable, "-c", PROCESS, server.url, str(tmp_path)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        assert [p.communicate(timeout=60)[0].strip() for p in running] == ["True"] * 3
        count = len(server.requests)
        assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "True"
        assert len(server.requests) == count
    assert len(list(tmp_path.rglob("*.json"))) == 40
    assert not list(tmp_path.rglob("*.part"))


def test_what_was_answered_before_an_interrupt_is_kept(tmp_path):
    """An exception out of the progress callback stands for the interrupt."""

    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise InterruptedError

    with chat_server(echo) as server:
        first = BlockingEndpoint(options(server, concurrency=1), tmp_path)
        with first, pytest.raises(InterruptedError):
            first.ask_all([asked(str(i)) for i in range(9)], interrupt)
        with BlockingEndpoint(options(server), tmp_path) as endpoint:
            endpoint.ask_all([asked(str(i)) for i in range(9)])
            assert endpoint.usage.cached >= 3
            assert endpoint.usage.cached + endpoint.usage.answers == 9


def test_it_works_while_a_loop_is_running():
    async def notebook(url: str) -> str:
        with BlockingEndpoint(EndpointOptions(url, "m")) as endpoint:
            result = endpoint.ask(asked("a"))
        return result.text if isinstance(result, Answer) else ""

    async def native(url: str) -> str:
        endpoint = ChatEndpoint(EndpointOptions(url, "m"))
        result = await endpoint.ask(asked("a"))
        await endpoint.close()
        return result.text if isinstance(result, Answer) else ""

    with chat_server(echo) as server:
        assert asyncio.run(notebook(server.url)) == asyncio.run(native(server.url)) == "A"


def test_the_key_is_sent_and_told_to_nobody(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")

    def rule(body, number):
        bad = body["messages"][0]["content"] == "bad"
        return Reply(status=401, body=b"wrong key sk-secret") if bad else echo(body, number)

    caplog.set_level(logging.DEBUG)
    with chat_server(rule) as server:
        chosen = options(server, api_key_env="JUDGE_KEY")
        with BlockingEndpoint(chosen, tmp_path) as endpoint:
            endpoint.ask(asked("a"))
            bad = endpoint.ask(asked("bad"))
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    assert bad.detail == "HTTP 401: wrong key (the API key)"
    stored = "".join(f.read_text() for f in tmp_path.rglob("*.json"))
    assert "sk-secret" not in caplog.text + stored + repr(chosen)
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ConfigError, match="api_key_env=JUDGE_KEY: expected an environment"):
        BlockingEndpoint(chosen)
