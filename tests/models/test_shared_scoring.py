"""A prompt that is read once gives the scores of the plain path, alone and in any company."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.models.chat_text import TokenizedText
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.shared_scoring import batches_by_prompt, by_prompt_and_length
from tests.models.test_shared_prompt import KNOWN, model_of
from tests.tiny import chat, tiny_tokenizer

PROMPTS = [chat("hi"), chat("how are you, my friend?"), chat("<pad>x<eos>")]
RESPONSES = [["yes", "no no no", "", "a"], ["<pad>", "x" * 40, "b", "hi"], ["q", "q", "r s", "t"]]


def judge_of(arch: str, **options):
    backbone = model_of(arch).base_model
    options = {"num_axes": 3, "gated": True, **options}
    return from_backbone(backbone, tiny_tokenizer(), **options).eval()


def plain(judge):
    judge.shares_prompts = False
    return judge


@pytest.mark.parametrize("arch", KNOWN)
@pytest.mark.parametrize(
    "options", [{}, {"kind": "bradley_terry", "num_axes": 1}, {"max_tokens": 8}], ids=str
)
@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_as_the_plain_path(arch, options, batch_size):
    judge = judge_of(arch, batch_size=batch_size, **options)
    assert judge.shares_prompts
    found = judge.embed(PROMPTS, RESPONSES)
    expected = plain(judge).embed(PROMPTS, RESPONSES)
    torch.testing.assert_close(found.vectors, expected.vectors, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.eigenvalues, expected.eigenvalues, atol=1e-5, rtol=1e-5)


def test_each_prompt_is_run_once():
    """Tokens that the backbone embeds: prompts but their last token, then the rest of each text."""
    judge = judge_of("llama")
    texts = judge.text([(*p, {"role": "assistant", "content": r}) for p, group in
                        zip(PROMPTS, RESPONSES, strict=True) for r in group])  # fmt: skip
    seen: list[int] = []
    judge.backbone.embed_tokens.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].numel())
    )
    judge.embed(PROMPTS, RESPONSES)
    prefixes = {text.ids[: text.prompt_tokens - 1] for text in texts}
    rest = sum(len(text.ids) - text.prompt_tokens + 1 for text in texts)
    assert sum(seen) == sum(map(len, prefixes)) + rest
    assert len(prefixes) == 3 and sum(seen) < sum(len(text.ids) for text in texts)


def test_an_architecture_that_is_not_known_takes_the_plain_path():
    judge = judge_of("gemma2")
    assert not judge.shares_prompts
    assert judge.embed(PROMPTS, RESPONSES).vectors.isfinite().all()


def test_texts_of_a_prompt_lie_side_by_side():
    texts = [TokenizedText(ids, 3) for ids in [(1, 2, 9, 9, 9), (3, 4, 9), (1, 2, 8), (3, 4, 9, 7)]]
    assert by_prompt_and_length(texts) == [1, 3, 2, 0]


def test_a_prompt_is_cut_only_where_it_does_not_fit():
    long, short, third = [(1, 2, *[9] * n) for n in (7, 8, 9)], [(3, 4, 9)] * 2, [(5, 6, 9, 9)] * 5
    texts = [TokenizedText(ids, 3) for ids in [*long, *short, *third]]
    batches = batches_by_prompt(texts, 4)
    assert batches == [[3, 4], [5, 6, 7, 8], [9, 0, 1, 2]]
    assert batches_by_prompt(texts, 100) == [by_prompt_and_length(texts)]
