"""What belongs to a model passes; tokenizer, template or end tokens that do not are named."""

from __future__ import annotations

import pytest

from gprl_lightning.errors import NotText, TokenizerMismatch
from gprl_lightning.models.agreement import require_judge_text, require_policy_tokens
from gprl_lightning.models.initialization import from_backbone
from tests.tiny import (
    ARCHITECTURES,
    END_OF_TURN,
    EOS,
    TEMPLATE,
    tiny_model,
    tiny_policy,
    tiny_tokenizer,
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_belongs_together_passes(architecture):
    policy = tiny_policy(architecture, pad="<eos>")
    require_policy_tokens(policy)
    require_judge_text(from_backbone(tiny_model("llama").model, tiny_tokenizer()), policy)


@pytest.mark.parametrize("ids", [(EOS, 94), (-1,)])
def test_end_tokens_beyond_the_vocabulary(ids):
    policy = tiny_policy()
    policy.eos_ids = ids
    with pytest.raises(TokenizerMismatch, match=r"EOS ids below 94.*generation_config"):
        require_policy_tokens(policy)


def test_a_tokenizer_with_more_tokens_than_the_embedding():
    policy = tiny_policy()
    policy.tokenizer.add_tokens(["<new>"])
    with pytest.raises(TokenizerMismatch, match="ids up to 94"):
        require_policy_tokens(policy)


def test_a_template_whose_turns_end_with_what_ends_no_response():
    policy = tiny_policy()
    policy.eos_ids = (EOS,)
    with pytest.raises(TokenizerMismatch, match=rf"found \[{END_OF_TURN}\]"):
        require_policy_tokens(policy)
    policy.tokenizer.chat_template = TEMPLATE.replace("<end>", "\n")
    require_policy_tokens(policy)  # ends by an ordinary token: the EOS is the model's affair


def test_the_judge_reads_by_a_tokenizer_of_its_own():
    policy = tiny_policy()
    judge = from_backbone(tiny_model("llama").model, policy.tokenizer)
    with pytest.raises(NotText, match="a tokenizer of its own"):
        require_judge_text(judge, policy)
    small = from_backbone(tiny_model("llama", vocab=50).model, tiny_tokenizer())
    with pytest.raises(TokenizerMismatch, match=r"preference_model\.path.*below 50"):
        require_judge_text(small, policy)
