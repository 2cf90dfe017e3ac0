"""Many comparisons at once: Holm's adjustment of their p values."""

from __future__ import annotations

import math
from collections.abc import Sequence


def holm(chances: Sequence[float]) -> list[float]:
    """Return the adjusted p of each comparison, in the order given (Holm 1979).

    The chance that any true "no difference" of the family falls below a level is at most that
    level, however the comparisons depend on each other. A comparison without a p (NaN) has none,
    and does not count.

    Args:
        chances: p of each comparison, in [0, 1].
    """
    known = sorted((p, place) for place, p in enumerate(chances) if not math.isnan(p))
    found = [math.nan] * len(chances)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        found[place] = least
    return found
