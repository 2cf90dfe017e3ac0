"""The gold whose weights hang on the request (``sandbox.gold=contextual``). Ours.

What counts depends on the task: a review should sound kind, a description be brief, a
recommendation keep to its subject, a reply to a complaint read well, a reply to praise be long.
So a gate on the prompt has something to learn, which the vote never gave it. Utilities are bounded:
no axis alone can carry an answer to any height.
"""

from __future__ import annotations

from functools import cache

from gprl_lightning.sandbox.gold import AXES, Axis, AxisReader, Scale
from gprl_lightning.sandbox.requests import Request
from gprl_lightning.sandbox.sentences import words

FEWEST_WORDS, MOST_WORDS = 6, 25  # beyond, shorter or longer counts no more
CLIP = 3.0  # standard deviations
MAIN_WEIGHT, OTHER_WEIGHT = 3.0, 0.5
# The axis that counts most, by task.
MAIN = {
    "review": "sentiment",
    "describe": "brevity",
    "recommend": "relevance",
    "complaint": "fluency",
    "praise": "size",
}
COLUMN = "weight_"  # of a prompt's row: λ of an axis


def size(request: Request, text: str) -> float:
    """Return the number of words, bounded to 6 and 25: an empty answer is not the briefest."""
    return float(min(max(len(words(text)), FEWEST_WORDS), MOST_WORDS))


def brevity(request: Request, text: str) -> float:
    """Return minus the `size`: an axis of its own, because no λ is negative."""
    return -size(request, text)


CONTEXT_AXES: tuple[Axis, ...] = (*AXES, brevity, size)


@cache
def context_weights(task: str) -> dict[str, float]:
    """Return w_l(x) of every axis at requests of a task.

    The main axis weighs 3, the vote's other axes ½. Brevity and size weigh nothing where they are
    not the main axis, and where one of them is, `length` does not: its target contradicts both.
    """
    main = MAIN[task]
    of_words = ("brevity", "size")
    idle = ("length", *of_words) if main in of_words else of_words
    weights = {a.__name__: 0.0 if a.__name__ in idle else OTHER_WEIGHT for a in CONTEXT_AXES}
    return {**weights, main: MAIN_WEIGHT}


def weight_columns(request: Request) -> dict[str, float]:
    """Return λ_l(x) = w_l(x) / Σ w of a request as columns of its row, ``weight_sentiment`` …"""
    weights = context_weights(request.task)
    return {f"{COLUMN}{name}": w / sum(weights.values()) for name, w in weights.items()}


class ContextualGold(AxisReader):
    """Prefers the answer of greater utility ``Σ_l w_l(x) · clip(z_l(x, y), ±3)``.

    Args:
        scales: by axis name, the reference for z-scores; None reads the packaged one.
    """

    def __init__(self, scales: dict[str, Scale] | None = None):
        super().__init__(CONTEXT_AXES, scales)

    def axes(self, request: Request, text: str) -> dict[str, float]:
        """Return every axis in standard deviations from the reference mean, by name."""
        found = super().axes(request, text)
        return {name: self._z(name, value) for name, value in found.items()}

    def clipped(self, request: Request, text: str) -> dict[str, float]:
        """Return every axis as `axes` does, cut at ±3."""
        found = self.axes(request, text)
        return {name: max(-CLIP, min(CLIP, z)) for name, z in found.items()}

    def quality(self, request: Request, text: str) -> float:
        """Return the utility of an answer."""
        weights = context_weights(request.task)
        return sum(weights[name] * z for name, z in self.clipped(request, text).items())

    def prefer(self, request: Request, a: str, b: str) -> float:
        """Return 1.0 if `a` has the greater utility, 0.0 if `b` has, 0.5 where they are equal."""
        margin = self.quality(request, a) - self.quality(request, b)
        return 0.5 if margin == 0 else float(margin > 0)

    def identity(self) -> dict[str, object]:
        """Return its axes and its weights by task."""
        return {"gold": list(self.names), "weights": {t: context_weights(t) for t in MAIN}}
