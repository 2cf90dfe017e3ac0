"""Python functions as axes: what they are given, what they may say, and what is refused."""

from __future__ import annotations

import asyncio
import re

import pytest
import torch

from gprl_lightning.core.batch import COMPLETION_IDS
from gprl_lightning.core.preference import group_scores
from gprl_lightning.errors import ConfigError, RewardFailed
from gprl_lightning.models.function_rewards import FunctionRewards
from tests.tiny import chat

PROMPTS = [chat("hi"), chat("sing")]
ANSWERS = [["a", "bbb", "cc"], ["dddd", "", "e"]]
ROWS = [{"prompt": "hi", "truth": "x", "w": 2}, {"prompt": "sing", "truth": "y", "w": "0.5"}]


def length(prompts, completions, **columns):
    return [float(len(text)) for text in completions]


async def late(prompts, completions, **columns):
    await asyncio.sleep(0)
    return [-float(len(text)) for text in completions]


def scores(source: FunctionRewards, rows=ROWS):
    found = source.embed(PROMPTS, ANSWERS, rows)
    return group_scores(found.vectors), found.eigenvalues


def test_plain_and_async_functions_are_axes_of_their_names():
    source = FunctionRewards([length, late])
    assert source.axes == ("length", "late")
    found, eigenvalues = scores(source)
    # 1, 3, 2 letters: each against the mean of the two others.
    assert found[0, :, 0].tolist() == [-1.5, 1.5, 0.0]
    assert torch.equal(found[..., 1], -found[..., 0])
    assert eigenvalues.tolist() == [[1.0, 1.0]] * 2


def test_async_functions_run_where_a_loop_runs_already():
    async def inside():
        return scores(FunctionRewards([late]))[0]

    assert asyncio.run(inside())[0, :, 0].tolist() == [1.5, -1.5, 0.0]


def test_async_functions_wait_together():
    barrier = []

    async def first(prompts, completions, **columns):
        barrier.append("first")
        while len(barrier) < 2:
            await asyncio.sleep(0)
        return [0.0] * len(completions)

    async def second(prompts, completions, **columns):
        barrier.append("second")
        while len(barrier) < 2:
            await asyncio.sleep(0)
        return [0.0] * len(completions)

    scores(FunctionRewards([first, second]))
    assert sorted(barrier) == ["first", "second"]


def test_columns_are_repeated_for_each_response_and_texts_are_texts():
    given = {}

    def watch(prompts, completions, **columns):
        given.update(prompts=prompts, completions=completions, **columns)
        return [0.0] * len(completions)

    scores(FunctionRewards([watch]))
    assert given["prompts"] == ["hi"] * 3 + ["sing"] * 3
    assert given["completions"] == [text for group in ANSWERS for text in group]
    assert given["truth"] == ["x"] * 3 + ["y"] * 3
    assert "prompt" not in given


def test_a_row_of_chat_messages_gives_chat_messages():
    given = {}

    def watch(prompts, completions, **columns):
        given.update(prompts=prompts, completions=completions)
        return [0.0] * len(completions)

    rows = [{"prompt": [{"role": "user", "content": "hi"}]}, {"prompt": "sing"}]
    scores(FunctionRewards([watch]), rows)
    assert given["prompts"][0] == [{"role": "user", "content": "hi"}]
    assert given["completions"][1] == [{"role": "assistant", "content": "bbb"}]
    assert given["completions"][3] == "dddd"


def test_a_function_without_columns_is_given_what_it_names():
    def match(completions, truth):
        return [float(a == b) for a, b in zip(completions, truth, strict=True)]

    assert scores(FunctionRewards([match]))[0].abs().max() == 0


def test_none_is_nothing_to_say():
    """Of a response: it stands at its group's mean. Of a whole group: λ is 0 there."""

    def shy(prompts, completions, **columns):
        return [1.0, None, 3.0, None, None, None]

    found, eigenvalues = scores(FunctionRewards([shy, length]))
    assert found[0, :, 0].tolist() == [-1.5, 0.0, 1.5]
    assert found[1, :, 0].abs().max() == 0
    assert eigenvalues.tolist() == [[1.0, 1.0], [0.0, 1.0]]


def test_weights_are_numbers_or_columns():
    _, eigenvalues = scores(FunctionRewards([length, late], ["w", 3]))
    assert eigenvalues.tolist() == [[2.0, 3.0], [0.5, 3.0]]
    with pytest.raises(ConfigError, match=r"column 'truth'.*found 'x'"):
        scores(FunctionRewards([length], ["truth"]))


def over_long(completions, completion_ids):
    """As TRL's soft over-long punishment: by the policy's tokens."""
    return [-float(len(ids)) for ids in completion_ids]


def test_completion_ids_are_the_policy_s_tokens_as_they_were_sampled():
    """Two letters may be one token: ids come with the rollout and not from the text."""
    ids = [[[7, 0], [8, 8, 8], [9]], [[1], [2, 0], [3]]]
    rows = [{**row, COMPLETION_IDS: one} for row, one in zip(ROWS, ids, strict=True)]
    found, _ = scores(FunctionRewards([over_long]), rows)
    assert found[0, :, 0].tolist() == [0.0, -1.5, 1.5]


def test_a_text_without_a_rollout_is_encoded():
    source = FunctionRewards([over_long])
    with pytest.raises(RewardFailed, match="completion_ids"):
        scores(source)
    source.encode = lambda text: [ord(letter) for letter in text]
    assert scores(source)[0][0, :, 0].tolist() == [1.5, -1.5, 0.0]
    rows = [{**row, COMPLETION_IDS: [[5] * 9, [5] * 9]} for row in ROWS]  # the third: an anchor
    found, _ = scores(source, rows)
    assert found[0, :, 0].tolist() == [-3.5, -3.5, 7.0]


def raises(prompts, completions, **columns):
    raise ValueError("no reward today")


async def raises_late(prompts, completions, **columns):
    raise ValueError("no reward today")


def short(prompts, completions, **columns):
    return [0.0]


def broken(prompts, completions, **columns):
    return [float("nan")] * len(completions)


def words(prompts, completions, **columns):
    return ["good"] * len(completions)


def nothing(prompts, completions, **columns):
    return None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raises, "raises; it raised ValueError: no reward today"),
        (raises_late, "raises_late; it raised ValueError: no reward today"),
        (short, "expected 6 numbers from short"),
        (broken, "from broken; found nan"),
        (words, "from words; found list"),
        (nothing, "from nothing; found NoneType"),
    ],
)
def test_what_is_no_reward_is_named(function, message):
    with pytest.raises(RewardFailed, match=re.escape(message)):
        scores(FunctionRewards([length, function]))


def test_what_cannot_be_called_is_refused_before_it_is():
    def stateful(completions, trainer_state):
        return [0.0] * len(completions)

    with pytest.raises(ConfigError, match="stateful needs trainer_state"):
        FunctionRewards([stateful])
    for functions in ([], [length, length]):
        with pytest.raises(ConfigError, match=r"preference_model\.functions"):
            FunctionRewards(functions)
    with pytest.raises(ConfigError, match=r"preference_model\.weights=\[1\.0\]: expected 2"):
        FunctionRewards([length, late], [1.0])
    with pytest.raises(ConfigError, match=r"found 'nowhere\.at_all'"):
        FunctionRewards.named(["nowhere.at_all"])


def test_identity_is_text_weights_and_version():
    def make(body: str):
        space: dict = {}
        exec(f"def reward(prompts, completions, **columns):\n    return {body}\n", space)
        return space["reward"]

    one = FunctionRewards([length]).identity()
    assert one == FunctionRewards([length]).identity()
    others = [
        FunctionRewards([late]),
        FunctionRewards([length], [2.0]),
        FunctionRewards([length], version="2"),
    ]
    assert all(one != other.identity() for other in others)
    a, b = (FunctionRewards([make(body)]).identity() for body in ("[1.0]", "[2.0]"))
    assert a != b, "without a text, the code speaks"
