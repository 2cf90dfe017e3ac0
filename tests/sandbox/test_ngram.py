"""The trigram model against sums and probabilities worked out by hand."""

import math

import pytest

from gprl_lightning.sandbox.ngram import BEGIN, DISCOUNT, END, NgramModel, ngram_tokens

TEXTS = ["the cat sat.", "the cat ran.", "the dog sat.", "the dog ran."]


@pytest.fixture(scope="module")
def model() -> NgramModel:
    return NgramModel.fit(TEXTS)


def test_tokens_are_lower_case_words_and_marks():
    assert ngram_tokens("Don't stop, Ann-Marie! 42") == [
        "don't",
        "stop",
        ",",
        "ann-marie",
        "!",
        "42",
    ]


def test_seen_trigram_by_hand(model):
    """P(cat | <s> the): counts 2 of 4, two kinds of follower, and the bigram level beneath.

    Bigram level: `the` is followed by two kinds, each seen in one context (`<s> the`): continuation
    counts 1 and 1. Unigram level: ten kinds of bigram (<s> the; the cat; the dog; cat sat; cat ran;
    dog sat; dog ran; sat .; ran .; . </s>); `cat` ends one of them; 7 words are ended upon, so
    0.75 * 7 / 10 is spread over the 9 entries of the vocabulary (six words and marks, and three
    specials).
    """
    unigram = (1 - DISCOUNT) / 10 + DISCOUNT * 7 / 10 / 9
    bigram = (1 - DISCOUNT) / 2 + DISCOUNT * 2 / 2 * unigram
    trigram = (2 - DISCOUNT) / 4 + DISCOUNT * 2 / 4 * bigram
    assert model.token_log_probs("the cat sat.")[1] == pytest.approx(math.log(trigram))


def test_probabilities_sum_to_one_in_every_kind_of_context(model):
    words = [w for w in model.vocabulary if w not in ("<s>", "</s>", "<unk>")]
    for prefix in ("the", "the cat", "cat the", "sat zebra"):  # seen, seen, backed off, unknown
        position = len(prefix.split())
        total = sum(math.exp(model.token_log_probs(f"{prefix} {w}")[position]) for w in words)
        total += math.exp(model.token_log_probs(prefix)[position])  # the end
        total += math.exp(model.token_log_probs(f"{prefix} qqq")[position])  # the unknown word
        context = [model.vocabulary.get(w, 0) for w in prefix.split()][-1]
        begin = model.bigram_backoff.get(context, 0.0) + model.unigram[BEGIN]
        two = [BEGIN, BEGIN, *(model.vocabulary.get(w, 0) for w in prefix.split())][-2:]
        begin += model.trigram_backoff.get((two[0] << 14) | two[1], 0.0)
        assert total + math.exp(begin) == pytest.approx(1.0)


def test_word_order_matters(model):
    assert model.mean_log_prob("the cat sat.") > model.mean_log_prob("cat the sat.")
    assert model.mean_log_prob("the cat sat.") > model.mean_log_prob("the zebra sat.")


def test_every_text_has_a_finite_score(model):
    assert math.isfinite(model.mean_log_prob(""))
    assert math.isfinite(model.mean_log_prob("\u4f60\u597d \U0001f600"))
    assert len(model.token_log_probs("")) == 1  # the end alone
    assert model.unigram[END] < 0


def test_saved_and_loaded_is_the_same(model, tmp_path):
    model.save(tmp_path / "m.npz")
    again = NgramModel.load(tmp_path / "m.npz")
    assert again.vocabulary == model.vocabulary
    assert again.trigram.keys() == model.trigram.keys()
    for text in (*TEXTS, "dog the zebra"):
        assert again.mean_log_prob(text) == pytest.approx(model.mean_log_prob(text), abs=5e-3)
