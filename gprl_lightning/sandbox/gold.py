"""The sandbox's gold judge: several quality axes of an answer, and a preference by majority vote.

The judge stands for the human whom the learned reward only imitates. Each axis is one small
function of the request and the text; a new one is a function added to `AXES` (then run
``calibrate_gold`` again, for its reference mean and standard deviation). The vote over axes is
not transitive: it makes the cycles that a scalar reward cannot express. The other gold, whose
weights hang on the request, is `contextual_gold`; `golds` chooses.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from gprl_lightning.sandbox.ngram import END, UNKNOWN, NgramModel, ngram_tokens
from gprl_lightning.sandbox.requests import Request, all_requests
from gprl_lightning.sandbox.sentences import content_counts, mentions, words

ASSETS = Path(__file__).parent / "assets"
TARGET_WORDS, WORDS_WIDTH = 20.0, 7.0
MAX_GAIN = 4.0  # nats per token
FEWEST_TOKENS = 4  # a fragment has no fluency to speak of

Axis = Callable[[Request, str], float]


@lru_cache(maxsize=1)
def _vader():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@lru_cache(maxsize=1)
def ngram_model() -> NgramModel:
    """Return the packaged trigram model."""
    return NgramModel.load(ASSETS / "ngram.npz")


@lru_cache(maxsize=1)
def related_words() -> dict[str, frozenset[str]]:
    """Return, for each subject and detail, the words that go with it in the corpus."""
    found = json.loads((ASSETS / "related_words.json").read_text(encoding="utf-8"))
    return {phrase: frozenset(related) for phrase, related in found.items()}


def valence(word: str) -> float:
    """Return how kind a single word is by VADER's lexicon, in (-4, 4); 0 if it is not in it."""
    return _vader().lexicon.get(word.lower(), 0.0)


def sentiment(request: Request, text: str) -> float:
    """Return how kind the text sounds, in (-1, 1): VADER's compound score, flattened towards its
    ends."""
    return math.tanh(1.5 * _vader().polarity_scores(text)["compound"])


def relevance(request: Request, text: str) -> float:
    """Names the detail and the subject (1 each), and the share of its content words on topic."""
    content = set(content_counts(text))
    related = related_words()
    topic = related[request.subject] | related[request.detail]
    topic |= {*request.subject.split(), request.detail}
    named = mentions(text, request.detail) + mentions(text, request.subject)
    return named + len(content & topic) / max(len(content), FEWEST_TOKENS)


def diversity(request: Request, text: str) -> float:
    """Return one less the repeated words and word pairs beyond what the text's length excuses."""
    found = [word.lower() for word in words(text)]
    if len(found) < 2:
        return 0.0
    pairs = list(itertools.pairwise(found))
    repeated = len(found) - len(set(found)) + len(pairs) - len(set(pairs))
    # The corpus's answers of n words score n²/125 here (articles, mostly): length is no fault.
    return 1.0 - (repeated - len(found) ** 2 / 125) / math.sqrt(len(found))


def length(request: Request, text: str) -> float:
    """Return a smooth bump around a target number of words, in (0, 1]."""
    return math.exp(-0.5 * ((len(words(text)) - TARGET_WORDS) / WORDS_WIDTH) ** 2)


def fluency(request: Request, text: str) -> float:
    """Return the nats per token that the trigram model gains over single words: rare words cost
    nothing.

    The syntactic log-odds ratio (SLOR: Pauls and Klein 2012; Lau et al. 2017), each token's gain
    capped, so that a stock phrase is worth no more than a good one (ours).
    """
    model = ngram_model()
    tokens = [*(model.vocabulary.get(t, UNKNOWN) for t in ngram_tokens(text)), END]
    joint = model.token_log_probs(text)
    gains = (j - model.unigram[t] for j, t in zip(joint, tokens, strict=True))
    return sum(min(gain, MAX_GAIN) for gain in gains) / max(len(tokens), FEWEST_TOKENS)


AXES: tuple[Axis, ...] = (sentiment, relevance, diversity, length, fluency)
CYCLE = ("sentiment", "relevance")  # the plane of `cyclic_votes`: what the proxies see best


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of an axis over the starting policy's answers."""

    mean: float
    std: float


def packaged_scales() -> dict[str, Scale]:
    """Return the scale of every axis, by name, over the packaged starting policy's answers."""
    stored = json.loads((ASSETS / "gold_scales.json").read_text(encoding="utf-8"))
    return {name: Scale(*values) for name, values in stored.items()}


class AxisReader:
    """Values of an answer's axes; remembers what it has read. What both golds stand on.

    Args:
        axes: the quality axes, each a function of (request, text).
        scales: by axis name, the reference for z-scores; None reads the packaged one.
    """

    def __init__(self, axes: tuple[Axis, ...], scales: dict[str, Scale] | None = None):
        self._axes = axes
        self._scales = packaged_scales() if scales is None else scales
        self._requests = {request.text: request for request in all_requests()}
        self._seen: dict[tuple[Request, str], dict[str, float]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(axis.__name__ for axis in self._axes)

    def axes(self, request: Request, text: str) -> dict[str, float]:
        """Return the value of every axis, by name."""
        key = (request, text)
        found = self._seen.get(key)
        if found is None:
            found = {axis.__name__: axis(request, text) for axis in self._axes}
            self._seen[key] = found
        return found

    def request_of(self, prompt_text: str) -> Request:
        """Return the request whose text is this user message.

        Raises:
            ValueError: if it is not one of the sandbox's requests, which alone the gold can judge.
        """
        request = self._requests.get(prompt_text.strip())
        if request is None:
            raise ValueError(
                f"expected one of the sandbox's requests, found {prompt_text!r}; the gold judge "
                "knows no others: set evaluation.judge to another judge, or data.path=sandbox"
            )
        return request

    def _z(self, name: str, value: float) -> float:
        scale = self._scales[name]
        return (value - scale.mean) / scale.std


class GoldJudge(AxisReader):
    """The gold that votes (``sandbox.gold=vote``): each axis has a vote, at every request alike.

    Args:
        axes: the quality axes, each a function of (request, text).
        scales: by axis name, the reference for z-scores; None reads the packaged one.
        cyclic_votes: how many votes, beside one per axis, the turn in the plane of the two axes
            `CYCLE` has: a is better than b if it lies less than half a turn ahead of it around the
            reference mean, so that answers on all sides beat one another in a circle. Ours.
    """

    def __init__(
        self,
        axes: tuple[Axis, ...] = AXES,
        scales: dict[str, Scale] | None = None,
        cyclic_votes: int = 0,
    ):
        super().__init__(axes, scales)
        self._cyclic_votes = cyclic_votes

    def quality(self, request: Request, text: str) -> float:
        """Return the sum of the axes in standard deviations from the reference mean."""
        return sum(self._z(name, value) for name, value in self.axes(request, text).items())

    def _turn(self, left: dict[str, float], right: dict[str, float]) -> int:
        """1 if `left` lies ahead of `right` in the plane of `CYCLE`, -1 if behind, 0 if neither."""
        (x, y), (u, v) = ([self._z(name, side[name]) for name in CYCLE] for side in (left, right))
        return (x * v > y * u) - (x * v < y * u)

    def prefer(self, request: Request, a: str, b: str) -> float:
        """Return 1.0 if `a` is better than `b`, 0.0 if worse: more votes, then the greater z-score
        sum.

        0.5 only where both count the same, as for identical texts.
        """
        if a == b:
            return 0.5
        left, right = self.axes(request, a), self.axes(request, b)
        votes = sum((left[name] > right[name]) - (left[name] < right[name]) for name in left)
        if self._cyclic_votes:
            votes += self._cyclic_votes * self._turn(left, right)
        margin = votes or self.quality(request, a) - self.quality(request, b)
        return 0.5 if margin == 0 else float(margin > 0)

    def identity(self) -> dict[str, object]:
        """Return its axes and its votes."""
        return {"gold": list(self.names), "cyclic_votes": self._cyclic_votes}
