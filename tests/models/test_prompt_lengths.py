"""Prompts are measured as they will be encoded, and only where they may be too long."""

from __future__ import annotations

import time

import pytest

from gprl_lightning.core.batch import Prompt
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.prompt_lengths import require_room
from tests.tiny import chat, tiny_policy, tiny_prompts

TEXTS = ["hello", "a<eos>b", "hello hello"]


@pytest.fixture
def prompts():
    return [Prompt(uid, chat(text)) for uid, text in enumerate(TEXTS)]


def test_the_longest_is_told_with_the_length_that_it_is_encoded_to(prompts):
    policy = tiny_policy()
    longest = int(tiny_prompts(policy, TEXTS).mask.sum(-1).max())
    require_room(prompts, policy, longest, 4)
    with pytest.raises(ConfigError, match=rf"1 longer ones; .* prompt 2, has {longest}\."):
        require_room(prompts, policy, longest - 1, 4)


def test_what_is_short_in_bytes_is_not_tokenised(prompts, monkeypatch):
    policy = tiny_policy()
    monkeypatch.setattr(type(policy.tokenizer), "__call__", None)
    require_room(prompts, policy, 100, 4)
    with pytest.raises(TypeError):
        require_room(prompts, policy, 20, 4)


def test_megabytes_are_refused_at_once():
    started = time.perf_counter()
    with pytest.raises(ConfigError, match=r"prompt 0, has [\d,]+ or more"):
        require_room([Prompt(0, chat("ab <eos> " * 400_000))], tiny_policy(), 100, 4)
    assert time.perf_counter() - started < 2
