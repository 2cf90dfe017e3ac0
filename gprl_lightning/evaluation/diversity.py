"""How much a policy's answers differ from one another: a collapsed policy says one thing to all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def distinct_bigrams(texts: Sequence[str]) -> float:
    """Return different pairs of neighbouring words over all pairs, in [0, 1] (distinct-2, Li et al.
    2016).

    Over all texts together, so that answers which repeat one another count as well as an answer
    that repeats itself. 0 where no text has two words. Falls with the number of texts: compare
    equal numbers.
    """
    pairs = [
        pair for text in texts for pair in itertools.pairwise(text.lower().split())
    ]  # fmt: skip
    return len(set(pairs)) / len(pairs) if pairs else 0.0
