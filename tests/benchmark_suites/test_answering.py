"""A policy answers a benchmark: turn by turn, as warm as asked, and never silently not at all."""

from __future__ import annotations

from functools import partial

import pytest

from gprl_lightning.benchmarks.answering import answer_questions
from gprl_lightning.benchmarks.questions import Question
from gprl_lightning.benchmarks.run import draw
from gprl_lightning.rollout.native import NativeSampler
from tests.tiny import tiny_policy

QUESTIONS = [
    Question("a", ("say one", "and two")),
    Question("b", ("say a longer three",)),
    Question("c", ("say four", "and five"), history=({"role": "user", "content": "hi"},)),
]


def recorded(log):
    """A sampler that says how it was asked."""

    def answer(policy, prompts, temperature, room):
        log.append((temperature, room, [m[-1]["content"] for m in prompts.messages]))
        return [f"<{len(m)} messages>" for m in prompts.messages]

    return answer


def test_turns_follow_one_another_in_the_same_conversation():
    log = []
    answers, no_room = answer_questions(
        tiny_policy(), QUESTIONS, lambda q: 0.0, recorded(log), 8, batch_size=2
    )
    assert answers == {
        "a": ("<1 messages>", "<3 messages>"),
        "b": ("<1 messages>",),
        "c": ("<2 messages>", "<4 messages>"),
    }
    assert no_room == 0 and len(log) == 3, "two batches of first turns, one of second turns"
    assert {room for _, room, _ in log} == {8}


def test_questions_of_another_temperature_are_asked_apart():
    log = []
    heat = {"a": 0.7, "b": 0.0, "c": 0.7}
    answer_questions(
        tiny_policy(), QUESTIONS, lambda q: heat[q.uid], recorded(log), 8, batch_size=9
    )
    assert sorted((t, len(texts)) for t, _, texts in log) == [(0.0, 1), (0.7, 2), (0.7, 2)]


def test_a_prompt_that_fills_the_context_has_an_empty_answer():
    policy, log = tiny_policy(), []
    context = policy.causal_lm.config.get_text_config().max_position_embeddings
    long = Question("long", ("word " * 2 * context,))
    answers, no_room = answer_questions(
        policy, [*QUESTIONS, long], lambda q: 0.0, recorded(log), 8, batch_size=9
    )
    assert answers["long"] == ("",) and no_room == 1
    assert answers["b"] == ("<1 messages>",)


def test_an_answer_gets_no_more_room_than_the_context_has():
    policy, log = tiny_policy(), []
    context = policy.causal_lm.config.get_text_config().max_position_embeddings
    answer_questions(policy, QUESTIONS[:1], lambda q: 0.0, recorded(log), 10**6, batch_size=1)
    assert all(0 < room < context for _, room, _ in log)


@pytest.mark.parametrize("seed", [0, 1])
def test_temperature_0_is_greedy_whatever_the_seed(seed):
    """The answers of two seeds are equal at 0; at 2 they differ."""
    policy = tiny_policy()
    texts = {
        (heat, s): answer_questions(
            policy, QUESTIONS, lambda q, heat=heat: heat, partial(draw, NativeSampler, s), 6, 4
        )[0]
        for heat in (0.0, 2.0)
        for s in (seed, seed + 100)
    }
    assert texts[0.0, seed] == texts[0.0, seed + 100]
    assert texts[2.0, seed] != texts[2.0, seed + 100]
