"""The packaged language model and gold data: sizes, tokenizer, and how its answers read."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gprl_lightning.sandbox.calibrate_gold import correlations, cyclic_share, sample_answers
from gprl_lightning.sandbox.corpus import Example
from gprl_lightning.sandbox.gold import ASSETS, GoldJudge
from gprl_lightning.sandbox.requests import Request, split_requests
from gprl_lightning.sandbox.sentences import mentions
from gprl_lightning.sandbox.train_language_model import (
    PROMPT_LOSS_WEIGHT,
    batches,
    encode,
    weighted_loss,
    with_noise,
    with_other_subject,
)

FOLDER = ASSETS / "language_model"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


@pytest.fixture(scope="module")
def sampled() -> tuple[list[Request], list[list[str]]]:
    requests = random.Random(3).sample(split_requests()[1], 48)
    return requests, sample_answers(FOLDER, requests, 4)


def _megabytes(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 2**20


def test_assets_are_small():
    assert _megabytes(FOLDER) <= 8
    assert _megabytes(ASSETS) - _megabytes(FOLDER) <= 3


def test_model_is_a_tiny_float32_llama(model, tokenizer):
    assert model.config.model_type == "llama"
    assert 0.4e6 <= model.num_parameters() <= 3e6
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert 500 <= len(tokenizer) <= 1000
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_any_text_encodes(tokenizer):
    text = 'Printable ASCII: {"key": [1, 2]} ~ a_b @ #5 \\ ^ | `'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.decode(tokenizer("Caf\u00e9\u2019s \u4f60")["input_ids"]) == "Cafe's ?"
    assert (
        tokenizer.unk_token_id is None or tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    )


def test_chat_template(tokenizer):
    chat = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": " Hi. "},
        {"role": "assistant", "content": "Hello."},
    ]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == (
        "<s><|user|>Hi.<|assistant|>Hello.</s>"
    )
    prompt = tokenizer.apply_chat_template(chat[:2], tokenize=False, add_generation_prompt=True)
    assert prompt == "<s><|user|>Hi.<|assistant|>"
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer(prompt)["input_ids"] == ids  # the tokenizer adds no BOS of its own


def test_requests_are_short(tokenizer):
    lengths = [len(tokenizer(r.text)["input_ids"]) for split in split_requests() for r in split]
    assert max(lengths) <= 32


def test_answers_stop_by_themselves_and_read_as_sentences(sampled):
    texts = [text for group in sampled[1] for text in group]
    ended = [text.endswith((".", "!", "?")) for text in texts]
    assert sum(ended) / len(ended) >= 0.9
    lengths = [len(text.split()) for text in texts]
    assert 8 <= np.mean(lengths) <= 35
    assert len(set(texts)) / len(texts) >= 0.85  # varied


def test_answers_keep_to_their_request(sampled):
    requests, groups = sampled

    def share(order: list[Request], phrase: str) -> float:
        hits = [
            mentions(text, getattr(request, phrase))
            for request, group in zip(order, groups, strict=True)
            for text in group
        ]
        return sum(hits) / len(hits)

    shuffled = requests[7:] + requests[:7]
    for phrase, least in (("subject", 0.6), ("detail", 0.45)):
        assert share(requests, phrase) >= least
        assert share(shuffled, phrase) <= 0.15


def test_gold_axes_are_distinct_on_the_policys_answers(sampled):
    judge = GoldJudge()
    table = correlations(judge, *sampled)
    off_diagonal = table[~np.eye(len(table), dtype=bool)]
    assert np.abs(off_diagonal).max() <= 0.4  # 192 answers: 0.3 and sampling error
    assert 0.01 <= cyclic_share(judge, *sampled) <= 0.12


def test_other_subject_stays_in_the_train_split_and_in_the_text():
    example = Example("review", "cafe", "coffee", "I loved this cafe.")
    bar = Request("review", "bar", "coffee")
    rng = random.Random(0)
    found = {with_other_subject(example, frozenset({bar}), rng) for _ in range(60)}
    assert found == {example, Example("review", "bar", "coffee", "I loved this bar.")}


def test_training_weights_answers_and_ignores_pads(model, tokenizer):
    examples = [
        Example("review", "cafe", "coffee", "I loved this cafe."),
        Example("review", "bar", "menu", "The menu of this bar was short and old and very dull."),
    ]
    rows = encode(tokenizer, examples)
    (ids, weights), *more = batches(rows, 10_000, random.Random(0))
    assert not more
    for i in range(2):
        row, first = next(r for r in rows if r[0] == ids[i, : len(r[0])].tolist())
        assert tokenizer.decode(row[first:-1]) in {e.response for e in examples}
        assert row[-1] == tokenizer.eos_token_id
        assert weights[i, first : len(row)].tolist() == [1.0] * (len(row) - first)
        assert weights[i, len(row) :].sum() == 0
        assert weights[i, 1].item() == pytest.approx(PROMPT_LOSS_WEIGHT)
    with torch.no_grad():
        together = weighted_loss(model, ids, ids, weights)
        parts = [next(batches([row], 10_000, random.Random(0))) for row in rows]
        losses = [weighted_loss(model, i, i, w) * w[:, 1:].sum() for i, w in parts]
        apart = sum(losses) / sum(part[1][:, 1:].sum() for part in parts)
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)


def test_noise_touches_answers_alone_and_never_writes_special_tokens():
    torch.manual_seed(0)
    ids = torch.full((4, 500), 3)
    weights = torch.ones(4, 500)
    weights[:, :100] = PROMPT_LOSS_WEIGHT
    weights[:, 400:] = 0.0
    assert torch.equal(with_noise(ids, weights, 0.0, 1000), ids)
    noisy = with_noise(ids, weights, 0.2, 1000)
    changed = noisy != ids
    assert not changed[:, :100].any() and not changed[:, 400:].any()
    assert 0.14 < changed[:, 100:400].float().mean() < 0.26  # 0.2, five standard deviations
    assert noisy[changed].min() >= 5
