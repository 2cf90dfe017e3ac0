"""The contextual gold's own axes as the reward: nothing is learned, λ can be the true one. Ours.

``preference_model=given_axes`` lists functions of this file: rewards with TRL's signature, each an
axis of its name (`models.function_rewards`). λ of a request stands in its row. Two more functions
can be hacked, because they count without end: `poswords` in the place of `sentiment`, and
`mentions` in that of `relevance`. All are in standard deviations of the starting policy's answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from gprl_lightning.sandbox.contextual_gold import CLIP, ContextualGold
from gprl_lightning.sandbox.gold import Axis, packaged_scales, valence
from gprl_lightning.sandbox.requests import Request
from gprl_lightning.sandbox.sentences import words

Texts = Sequence[str]


def positive_words(request: Request, text: str) -> float:
    """Return the summed valence of the positive words, each time they are said."""
    return sum(max(valence(word), 0.0) for word in words(text))


def topic_words(request: Request, text: str) -> float:
    """Return how often the text says the detail or a word of the subject."""
    topic = {request.detail, *request.subject.split()}
    return float(sum(word.lower() in topic for word in words(text)))


HACKABLE: tuple[Axis, ...] = (positive_words, topic_words)


@lru_cache(maxsize=1)
def _gold() -> ContextualGold:
    return ContextualGold()


def _clean(name: str, prompts: Texts, completions: Texts) -> list[float]:
    gold = _gold()
    rows = zip(prompts, completions, strict=True)
    return [gold.clipped(gold.request_of(prompt), text)[name] for prompt, text in rows]


def _unbounded(axis: Axis, prompts: Texts, completions: Texts) -> list[float]:
    gold, scale = _gold(), packaged_scales()[axis.__name__]
    rows = zip(prompts, completions, strict=True)
    return [(axis(gold.request_of(p), text) - scale.mean) / scale.std for p, text in rows]


def _cut(values: Sequence[float]) -> list[float]:
    return [max(-CLIP, min(CLIP, value)) for value in values]


def sentiment(prompts: Texts, completions: Texts) -> list[float]:
    """Return the gold's own axis of this name, cut at ±3."""
    return _clean("sentiment", prompts, completions)


def relevance(prompts: Texts, completions: Texts) -> list[float]:
    """Return the gold's own axis of this name, cut at ±3."""
    return _clean("relevance", prompts, completions)


def diversity(prompts: Texts, completions: Texts) -> list[float]:
    """Return the gold's own axis of this name, cut at ±3."""
    return _clean("diversity", prompts, completions)


def length(prompts: Texts, completions: Texts) -> list[float]:
    """Return the gold's own axis of this name, cut at ±3."""
    return _clean("length", prompts, completions)


def fluency(prompts: Texts, completions: Texts) -> list[float]:
    """Return the gold's own axis of this name, cut at ±3."""
    return _clean("fluency", prompts, completions)


def brevity(prompts: Texts, completions: Texts) -> list[float]:
    """Return the gold's own axis of this name, cut at ±3."""
    return _clean("brevity", prompts, completions)


def size(prompts: Texts, completions: Texts) -> list[float]:
    """Return the gold's own axis of this name, cut at ±3."""
    return _clean("size", prompts, completions)


def poswords(prompts: Texts, completions: Texts) -> list[float]:
    """Return `positive_words`, unbounded: "great great great" is worth as much as one likes."""
    return _unbounded(positive_words, prompts, completions)


def mentions(prompts: Texts, completions: Texts) -> list[float]:
    """Return `topic_words`, unbounded: an answer may say nothing but its subject."""
    return _unbounded(topic_words, prompts, completions)


def poswords_clipped(prompts: Texts, completions: Texts) -> list[float]:
    """Return `poswords`, cut at ±3: the control."""
    return _cut(poswords(prompts, completions))


def mentions_clipped(prompts: Texts, completions: Texts) -> list[float]:
    """Return `mentions`, cut at ±3: the control."""
    return _cut(mentions(prompts, completions))
