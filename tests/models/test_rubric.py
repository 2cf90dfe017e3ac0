"""Criteria judged by a language model: what is asked, how answers become scores, what fails."""

from __future__ import annotations

import re

import pytest
import torch

from gprl_lightning.core.preference import pairwise_scores
from gprl_lightning.errors import ConfigError, RewardFailed
from gprl_lightning.models.rubric import Rubric, read_grade, read_verdict
from tests.chat_server import Reply, chat_server
from tests.tiny import chat

CRITERIA = {"brief": "Is short.", "kind": "Is kind."}
PROMPTS = [chat("say a"), chat("say b")]
RESPONSES = [["aaa", "a", "aa"], ["bb", "bbbb", "b"]]
FAST = {"retries": 1, "backoff": 0.001, "timeout": 0.5}


def asked(body) -> str:
    return body["messages"][0]["content"]


def grade(body, _) -> Reply:
    """10 less the length; kindness is 5 for all."""
    text = asked(body)
    (response,) = re.findall(r"Response:\n(.*)", text)
    return Reply(str(10 - len(response) if "Is short." in text else 5))


def prefer(body, _) -> Reply:
    """The shorter one is briefer; of kindness, always the first that is shown."""
    first, second = re.findall(r"Response [AB]:\n(.*)", asked(body))
    return Reply(("A" if len(first) < len(second) else "B") if "Is short." in asked(body) else "A")


def rubric(server, **options) -> Rubric:
    return Rubric(CRITERIA, server.url, "m", endpoint=FAST, **options)


def test_pointwise_scores_are_differences_of_grades():
    with chat_server(grade) as server:
        found = rubric(server, weights={"kind": 2.0}).embed(PROMPTS, RESPONSES)
        assert len(server.requests) == 12
    scores = pairwise_scores(found.vectors)
    for group, texts in enumerate(RESPONSES):
        for i, first in enumerate(texts):
            for j, second in enumerate(texts):
                assert scores[group, i, j].tolist() == [len(second) - len(first), 0]
    assert found.eigenvalues.tolist() == [[1, 2], [1, 2]]


def test_pairwise_asks_both_orders_and_a_preference_for_a_place_cancels():
    with chat_server(prefer) as server:
        found = rubric(server, pairwise=True).embed(PROMPTS, RESPONSES)
        assert len(server.requests) == 2 * 6 * 2
    scores = pairwise_scores(found.vectors)
    assert torch.equal(scores, -scores.transpose(1, 2))
    brief = [[0, -1, -1], [1, 0, 1], [1, -1, 0]]
    assert scores[0, :, :, 0].tolist() == brief
    assert not scores[..., 1].any()


def test_a_cycle_of_verdicts_is_kept():
    beats = {("aaa", "a"), ("a", "aa"), ("aa", "aaa")}

    def cyclic(body, _):
        first, second = re.findall(r"Response [AB]:\n(.*)", asked(body))
        return Reply("A" if (first, second) in beats else "B")

    with chat_server(cyclic) as server:
        found = rubric(server, pairwise=True).embed(PROMPTS[:1], RESPONSES[:1])
    table = pairwise_scores(found.vectors)[0, :, :, 0]
    assert [table[0, 1], table[1, 2], table[2, 0]] == [1, 1, 1]


def test_an_unread_answer_is_no_verdict():
    def some(body, number):
        return Reply("as you like") if "aaa" in asked(body) else grade(body, number)

    with chat_server(some) as server:
        found = rubric(server, max_failures=0.5).embed(PROMPTS, RESPONSES)
    scores = pairwise_scores(found.vectors)[0, :, :, 0]
    # The grades are none, 9, 8: the first stands at the mean of the others.
    assert scores[0].tolist() == [0, -0.5, 0.5]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply("no idea"), "'no idea'"),
        (Reply(status=500, body=b"down"), "server: HTTP 500: down"),
        (Reply(body=b"<html>"), "nonsense"),
        (Reply(seconds=1.0), "timeout"),
        (Reply(cut=True), "connection"),
    ],
)
def test_an_endpoint_that_fails_is_named(reply, said):
    with chat_server(lambda *_: reply) as server, pytest.raises(RewardFailed, match=said):
        rubric(server).embed(PROMPTS[:1], [["a", "b"]])


def test_a_dead_server_is_named():
    with chat_server(grade) as server:
        source = rubric(server)
    with pytest.raises(RewardFailed, match="connection"):
        Rubric(CRITERIA, "http://127.0.0.1:9/v1", "m", endpoint=FAST).embed(PROMPTS, RESPONSES)
    assert source.axes == ("brief", "kind")


def test_answers_are_kept_and_counted(tmp_path, capsys):
    with chat_server(grade) as server:
        for _ in range(2):
            rubric(server, cache=str(tmp_path), price=[1e6, 0.0]).embed(PROMPTS, RESPONSES)
        assert len(server.requests) == 12
    first, second = capsys.readouterr().err.splitlines()
    assert "12 answers in 12 calls, 0 from the cache" in first and "cost" in first
    assert "0 answers in 0 calls, 12 from the cache" in second


@pytest.mark.parametrize(
    ("text", "grade", "verdict"),
    [("7", 7, None), ("10", 10, None), ("11", None, None), ("Score: 8/10", 10, None),
     ("A", None, 1), ("b.", None, -1), ("tie", None, 0), ("A or B", None, None),
     ("B is a better one", None, -1), ("It is a TIE.", None, 0), ("a good one", None, None)],
)  # fmt: skip
def test_what_is_read(text, grade, verdict):
    assert (read_grade(text), read_verdict(text)) == (grade, verdict)


def test_it_says_what_it_needs():
    with pytest.raises(ConfigError, match=r"expected preference_model\.criteria"):
        Rubric({}, "", "")
