"""The share of different word pairs, by hand."""

from __future__ import annotations

import pytest

from gprl_lightning.evaluation.diversity import distinct_bigrams


def test_by_hand():
    """a b, b a, a b | a b, b c: three different ones (ab, ba, bc) of five."""
    assert distinct_bigrams(["a b a b", "A b c"]) == pytest.approx(3 / 5)


def test_a_policy_that_says_one_thing_falls_with_the_number_of_answers():
    assert distinct_bigrams(["so it is"]) == 1
    assert distinct_bigrams(["so it is"] * 50) == pytest.approx(1 / 50)


def test_texts_without_pairs():
    assert distinct_bigrams(["", "word"]) == 0
