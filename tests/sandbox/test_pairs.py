"""Gold-labelled pairs: what makes their labels worse does so by the share that it says."""

from __future__ import annotations

import itertools

import pytest

from gprl_lightning.config.validation import validate
from gprl_lightning.data.preferences import PreferencePair
from gprl_lightning.sandbox.pairs import label_pairs
from gprl_lightning.sandbox.preference_data import pairs_fingerprint
from tests.composing import composed

PROMPTS = [({"role": "user", "content": f"request {i}"},) for i in range(40)]
# Of 1 to 8 words; the later ones of these are better in the eyes of `Shorter`.
RESPONSES = [[" ".join(["word"] * n) for n in range(8, 0, -1)] for _ in PROMPTS]


class Shorter:
    """A judge to whom fewer words are better."""

    def prefer(self, prompts, responses, others):
        return [float(len(a) < len(b)) for a, b in zip(responses, others, strict=True)]

    def axes(self, prompts, responses):
        return {"brevity": [-float(len(r)) for r in responses], "nothing": [0.0] * len(responses)}


def longer_wins(**options: float) -> float:
    """The share of 1,000 labels that go to the longer response."""
    pairs = label_pairs(PROMPTS, RESPONSES, Shorter(), 1000, 0, **options)
    return sum(_longer(pair) for pair in pairs) / len(pairs)


def _longer(pair: PreferencePair) -> bool:
    chosen, rejected = pair.answers
    return len(chosen) > len(rejected)


def test_labels_are_the_judges_without_options():
    assert longer_wins() == 0


@pytest.mark.parametrize("option", ["label_noise", "length_bias"])
def test_a_share_of_the_labels_is_turned_against_the_judge(option):
    # Binomial, 1,000 draws at 0.3: a deviation of 0.0145; four of them.
    assert longer_wins(**{option: 0.3}) == pytest.approx(0.3, abs=0.058)
    assert longer_wins(**{option: 1.0}) == 1


def test_the_length_bias_never_turns_a_label_away_from_the_longer_response():
    class Longer(Shorter):
        def prefer(self, prompts, responses, others):
            return [float(len(a) > len(b)) for a, b in zip(responses, others, strict=True)]

    plain, biased = (
        label_pairs(PROMPTS, RESPONSES, Longer(), 200, 0, length_bias=b) for b in (0, 0.7)
    )
    assert all(_longer(pair) for pair in [*plain, *biased])


def test_equally_long_responses_keep_the_judges_label():
    texts = [["aa bb", "a b"]] * len(PROMPTS)
    pairs = label_pairs(PROMPTS, texts, Shorter(), len(PROMPTS), 0, length_bias=1.0)
    assert {pair.answers for pair in pairs} == {("a b", "aa bb")}


def test_attributes_are_the_judges_verdicts_by_axis_with_noise_of_their_own():
    plain, noisy = (
        label_pairs(PROMPTS, RESPONSES, Shorter(), 1000, 0, label_noise=n) for n in (0.0, 0.2)
    )
    assert all(pair.attributes == {"brevity": 1.0, "nothing": 0.5} for pair in plain)
    # The label's noise says which answer is the chosen one, the attribute's what is said of it.
    wrong = [pair.attributes["brevity"] == float(_longer(pair)) for pair in noisy]
    assert sum(wrong) / 1000 == pytest.approx(0.2, abs=0.051)  # 4 deviations of 0.0126
    assert {pair.attributes["nothing"] for pair in noisy} == {0.5}


def test_every_option_of_the_labels_makes_other_pairs():
    changes = ("label_noise=0.1", "length_bias=0.1", "seed=1", "sandbox_pairs=9")
    vote = "sandbox.gold=vote"
    overrides = [[], [vote], [vote, "preference_training.cyclic_votes=3"]]
    overrides += [[f"preference_training.{change}"] for change in changes]
    prints = [pairs_fingerprint(validate(composed(*o))) for o in overrides]
    assert all(a != b for a, b in itertools.combinations(prints, 2))
