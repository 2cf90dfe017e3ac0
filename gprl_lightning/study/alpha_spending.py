"""How much of the 5 % each look at a growing study may spend.

Seeds that are added because a comparison was undecided give chance a second try: five seeds and, if
need be, five more claim a gain that is none in 8 % of studies and not in 5 %. A plan that names the
looks beforehand shares the 5 % out among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from gprl_lightning.study.intervals import LEVEL


def levels(looks: Sequence[int], level: float = LEVEL) -> list[float]:
    """Return the level of each look, for `verdicts.judge`. They add up to ``level``.

    The spending function of Lan and DeMets (1983) after O'Brien and Fleming: by a share t of the
    seeds ``2 − 2Φ(z/√t)`` is spent, hardly anything early. What a look adds to it is the look's
    own level, so that by the union bound the whole study errs no more often than ``level``, however
    the looks depend on one another (the exact boundary, which needs normal sums, is a little
    wider).

    Args:
        looks: seeds at each look, growing; the last is the planned size.

    Raises:
        ValueError: they do not grow.
    """
    if not looks or sorted({*looks}) != [*looks] or looks[0] < 1:
        raise ValueError(
            f"looks: expected numbers of seeds that grow, such as 5,10; got {[*looks]}."
        )
    normal = NormalDist()
    z = normal.inv_cdf(1 - level / 2)
    spent = [2 - 2 * normal.cdf(z / math.sqrt(look / looks[-1])) for look in looks]
    return [after - before for before, after in zip([0.0, *spent], spent, strict=False)]
