"""The gold judge: each axis moves as it says, the vote is the majority's, circles occur."""

import itertools

import pytest

from gprl_lightning.sandbox import gold
from gprl_lightning.sandbox.gold import GoldJudge, Scale
from gprl_lightning.sandbox.requests import Request, all_requests

REVIEW = Request("review", "cafe", "coffee")


@pytest.fixture(scope="module")
def judge() -> GoldJudge:
    return GoldJudge()


def test_sentiment_orders_and_saturates():
    bad, plain, good, gushing = (
        gold.sentiment(REVIEW, text)
        for text in (
            "The coffee was terrible and awful.",
            "The coffee was in a cup.",
            "The coffee was good.",
            "The wonderful, great, lovely coffee was good and I love it.",
        )
    )
    assert bad < plain == 0 < good < gushing < 1
    assert gushing - good < good - plain  # less and less gain


def test_relevance_counts_subject_and_detail_once_and_the_share_on_topic():
    assert gold.relevance(REVIEW, "It was nice.") == 0
    assert gold.relevance(REVIEW, "The novel was long.") == 0
    # content words: cafe, zebra, purple, monkey: one of four is on topic
    assert gold.relevance(REVIEW, "The cafe, a zebra, purple monkey, cafe!") == 1.25
    assert gold.relevance(REVIEW, "The cafe, its coffee, a zebra, purple.") == 2.5
    related = sorted(gold.related_words()["coffee"])[:2]
    assert gold.relevance(REVIEW, f"The coffee: {related[0]} {related[1]} zebra.") == 1.75


def test_diversity_falls_with_repetition():
    varied = gold.diversity(REVIEW, "I loved this small cafe with its strong coffee.")
    stutter = gold.diversity(REVIEW, "I loved this cafe, I loved this cafe, loved.")
    assert varied > 0.5 > stutter


def test_length_is_a_bump_at_its_target():
    at = {n: gold.length(REVIEW, "word " * n) for n in (1, 13, 20, 27, 60)}
    assert at[20] == 1.0
    assert at[13] == pytest.approx(at[27])
    assert at[13] == pytest.approx(0.6065, abs=1e-4)  # exp(-1/2), one width off
    assert at[1] < at[13] and at[60] < 1e-6


def test_fluency_prefers_english_to_shuffled_english():
    text = "The coffee was strong and the staff was friendly."
    shuffled = "Friendly and was the strong the coffee staff was."
    assert gold.fluency(REVIEW, text) > gold.fluency(REVIEW, shuffled) + 0.5
    assert gold.fluency(REVIEW, "We are glad that you loved the pool.") < gold.MAX_GAIN


def test_at_least_five_axes_all_with_a_scale(judge):
    assert len(judge.names) >= 5
    assert tuple(judge.axes(REVIEW, "A cafe.")) == judge.names
    assert all(
        -10 < judge.quality(REVIEW, text) < 20 for text in ("A cafe.", "I loved the coffee.")
    )


def test_empty_text_is_judged(judge):
    assert judge.prefer(REVIEW, "", "I loved the coffee of this cafe.") == 0.0


def test_preference_is_antisymmetric_and_half_for_identical(judge):
    texts = ["I loved this cafe.", "The coffee was cold.", "A cafe.", "You are kind.", ""]
    for a, b in itertools.combinations(texts, 2):
        assert judge.prefer(REVIEW, a, b) + judge.prefer(REVIEW, b, a) == 1.0
    assert judge.prefer(REVIEW, texts[0], texts[0]) == 0.5


def _judge_of(table: dict[str, tuple[float, ...]]) -> GoldJudge:
    """A judge whose axes read their values from a table by text."""

    def axis(i: int):
        def value(request: Request, text: str) -> float:
            return float(table[text][i])

        value.__name__ = f"axis{i}"
        return value

    count = len(next(iter(table.values())))
    return GoldJudge(
        tuple(map(axis, range(count))), {f"axis{i}": Scale(0.0, i + 1.0) for i in range(count)}
    )


def test_majority_wins_against_a_greater_sum():
    judge = _judge_of({"a": (1, 1, 0), "b": (0, 0, 100)})
    assert judge.prefer(REVIEW, "a", "b") == 1.0


def test_equal_votes_go_to_the_greater_sum_of_z_scores():
    # axis1 counts half, its standard deviation being 2: 1 - 0 against 1.5 / 2
    judge = _judge_of({"a": (1, 0), "b": (0, 1.5), "c": (0, 3)})
    assert judge.prefer(REVIEW, "a", "b") == 1.0
    assert judge.prefer(REVIEW, "a", "c") == 0.0


def test_the_vote_can_go_in_a_circle():
    judge = _judge_of({"a": (3, 1, 2), "b": (2, 3, 1), "c": (1, 2, 3)})
    assert judge.prefer(REVIEW, "a", "b") == 1.0
    assert judge.prefer(REVIEW, "b", "c") == 1.0
    assert judge.prefer(REVIEW, "c", "a") == 1.0


def test_cyclic_votes_make_a_circle_of_answers_on_all_sides():
    """Three answers a third of a turn apart around the mean in the plane of `CYCLE`, and a third
    axis on which they rank a > b > c: by votes alone a beats c, and with the plane all go round.
    """
    table = {"a": (1.0, 0.0, 9.0), "b": (-0.5, -0.9, 8.0), "c": (-0.5, 0.9, 7.0)}

    def named(name: str, i: int):
        def axis(request: Request, text: str) -> float:
            return table[text][i]

        axis.__name__ = name
        return axis

    axes = tuple(named(name, i) for i, name in enumerate((*gold.CYCLE, "rank")))
    scales = {name: Scale(0.0, 1.0) for name in (*gold.CYCLE, "rank")}
    plain, cyclic = (GoldJudge(axes, scales, cyclic_votes=n) for n in (0, 4))
    assert plain.prefer(REVIEW, "a", "c") == 1.0
    # The turn a × c is 1 · 0.9 > 0: a is ahead of c; c of b; and b of a.
    outcomes = [cyclic.prefer(REVIEW, *pair) for pair in ("ac", "cb", "ba")]
    assert outcomes == [1.0, 1.0, 1.0]
    assert [cyclic.prefer(REVIEW, *pair) for pair in ("ca", "bc", "ab")] == [0.0, 0.0, 0.0]


def test_axes_are_computed_once():
    calls = []

    def axis(request: Request, text: str) -> float:
        calls.append(text)
        return float(len(text))

    judge = GoldJudge((axis,), {"axis": Scale(0.0, 1.0)})
    assert judge.prefer(REVIEW, "aa", "b") == judge.prefer(REVIEW, "aa", "b") == 1.0
    assert sorted(calls) == ["aa", "b"]


def test_request_of_finds_every_request_and_refuses_others(judge):
    assert all(judge.request_of(r.text) == r for r in all_requests())
    with pytest.raises(ValueError, match=r"evaluation\.judge"):
        judge.request_of("Write a poem.")
