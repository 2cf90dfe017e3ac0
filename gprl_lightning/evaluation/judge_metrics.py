"""What an evaluation says of its judges, beside their win rates."""

from __future__ import annotations

from collections.abc import Sequence

from gprl_lightning.tracking import metrics

NEAR = 0.05  # of a half: a comparison that a judge can hardly tell; ours


def cut_share(name: str, before: tuple[int, int], after: tuple[int, int]) -> dict[str, float]:
    """Return the share of the texts that a judge's networks read now and could not read to their
    end, ``eval/cut_fraction/<name>``; nothing of a judge without any."""
    read, cut = after[0] - before[0], after[1] - before[1]
    return {metrics.of_judge(metrics.EVAL_CUT_FRACTION, name): cut / read} if read else {}


def undecided(name: str, chances: Sequence[float | None]) -> dict[str, float]:
    """Return the share of a judge's comparisons within `NEAR` of a half, ``eval/undecided/<name>``;
    nothing where it decided none."""
    decided = [abs(chance - 0.5) <= NEAR for chance in chances if chance is not None]
    share = {metrics.of_judge(metrics.EVAL_UNDECIDED, name): sum(decided) / max(len(decided), 1)}
    return share if decided else {}
