"""The corpus filter: what it keeps, cuts and drops; and the template grammar."""

import json
import random

import pytest

from gprl_lightning.sandbox import grammar
from gprl_lightning.sandbox.corpus import (
    Example,
    clean,
    filter_corpus,
    read_raw,
    without_lone_words,
)
from gprl_lightning.sandbox.requests import FAMILIES, Request, split_requests
from gprl_lightning.sandbox.sentences import common_words, mentions, tidy

REVIEW = Request("review", "cafe", "coffee")
COMPLAINT = Request("complaint", "guest house", "pool")
PRAISE = Request("praise", "guest house", "pool")
KNOWN = common_words(
    [
        "I loved this cafe and the coffee was strong but the bread was not warm at all today",
        "A guest did not like the warm pool of our house so we are sorry and will make it better",
        "Thank you for coming to our guest house we are glad that you loved the pool and your bed",
        "It was a beautiful little place with friendly staff here is short review in words write",
    ],
    minimum=1,
)


def test_keeps_a_clean_answer_as_it_is():
    text = "I loved this cafe. The coffee was strong but warm."
    assert clean(REVIEW, text, KNOWN) == text


def test_cuts_an_unfinished_sentence():
    assert clean(REVIEW, "I loved this cafe and the coffee. It was not", KNOWN) == (
        "I loved this cafe and the coffee."
    )


@pytest.mark.parametrize(
    "sentence",
    [
        "The worldofmusic was warm.",  # a glued word
        "The bread was 20 dollars.",  # a digit
        'The staff was "friendly" today.',  # a quotation
        "The coffee at Le Cafe was warm.",  # a name
        "Here is a short review of the bread.",  # talk about the text
        "The bread was warm, warm and strong.",  # a stutter
        "The bread was a beautiful.",  # a noun phrase without its noun
    ],
)
def test_drops_a_bad_sentence_and_keeps_the_good_one(sentence):
    good = "I loved this cafe and the coffee."
    assert clean(REVIEW, f"{good} {sentence}", KNOWN) == good
    assert clean(REVIEW, sentence, KNOWN) is None


def test_drops_what_is_off_the_request():
    assert clean(REVIEW, "The bread was warm and the staff was friendly.", KNOWN) is None


def test_drops_what_is_too_short():
    assert clean(REVIEW, "I loved this cafe.", KNOWN) is None


def test_a_reply_speaks_to_the_guest_in_the_right_voice():
    sorry = "We are sorry that you did not like the pool."
    glad = "We are glad that you loved the pool."
    assert clean(COMPLAINT, sorry, KNOWN) == sorry
    assert clean(COMPLAINT, glad, KNOWN) is None
    assert clean(PRAISE, glad, KNOWN) == glad
    assert clean(PRAISE, sorry, KNOWN) is None
    assert clean(COMPLAINT, "We are sorry that a guest did not like the pool.", KNOWN) is None


def test_tidy_straightens_quotes_and_verbs():
    assert tidy("I\u2019m  glad. The tickets was fair.\nMore") == "I'm glad. The tickets were fair."


def test_mentions_singular_and_plural_but_not_parts_of_words():
    assert mentions("Two Cafes!", "cafe")
    assert mentions("this pocket", "pockets")
    assert not mentions("a barn", "bar")
    assert not mentions("the price", "menu")


def test_common_words_counts_texts_not_occurrences():
    known = common_words(["warm warm warm", "soft", "soft"], minimum=2)
    assert "soft" in known and "warm" not in known
    assert "pizza" in known  # words of the requests are always known


def test_filter_corpus_keeps_each_text_once(tmp_path):
    row = {"task": "review", "subject": "cafe", "detail": "coffee", "tokens": 9, "ended": True}
    rows = [row | {"response": "I loved this cafe and its coffee"}] * 15
    path = tmp_path / "raw.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"task": "rev', encoding="utf-8")
    examples = filter_corpus(read_raw([path]))  # the broken last line is passed over
    assert [e.response for e in examples] == ["I loved this cafe and its coffee."]
    assert examples[0].request == REVIEW


def test_answers_with_a_word_of_their_own_are_dropped():
    texts = ("A warm cafe.", "a cafe, warm", "A warm zebra.")
    rows = [Example("review", "cafe", "coffee", text) for text in texts]
    assert without_lone_words(rows) == rows[:2]


def test_grammar_knows_every_detail_and_mentions_the_request():
    assert set(grammar.QUALITIES) == {d for _, details in FAMILIES.values() for d in details}
    rng = random.Random(0)
    train = split_requests()[0]
    answers = [(r, grammar.answer(r, rng)) for r in train]
    assert all("{" not in text for _, text in answers)
    on_topic = [mentions(t, r.subject) or mentions(t, r.detail) for r, t in answers]
    assert sum(on_topic) / len(on_topic) > 0.97


def test_grammar_agrees_with_plural_details():
    rng = random.Random(1)
    request = Request("review", "coat", "pockets")
    texts = " ".join(grammar.answer(request, rng) for _ in range(50))
    assert "pockets were" in texts and "pockets was" not in texts and "pockets is" not in texts
