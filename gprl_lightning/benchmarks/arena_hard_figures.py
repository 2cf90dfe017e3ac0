"""Arena-Hard's figures by category: the plain win rate, and the one at equal style."""

from __future__ import annotations

from collections.abc import Sequence

from gprl_lightning.benchmarks import arena_hard_scores as scores
from gprl_lightning.benchmarks.arena_hard_scores import StyledBattles
from gprl_lightning.benchmarks.protocol import Figure

NAMES = {"creative_writing": ("_creative", "creative writing")}  # suffix and label of its figures
OLD = "v0.1"  # the version that is scored as its leaderboard of July 2024 was


def win_rate_figure(version: str, category: str, battles: Sequence[Sequence[float]]) -> Figure:
    """Return the win rate of one category, from each question's battles."""
    rate = scores.win_rate_v0_1 if version == OLD else scores.win_rate_v2
    suffix, label = NAMES.get(category, ("", "win rate"))
    return Figure(f"win_rate{suffix}", label, *rate(battles), _interval(version))


def style_figure(
    version: str, category: str, own: StyledBattles, others: Sequence[StyledBattles]
) -> Figure:
    """Return the win rate of one category at equal style, fitted together with `others`."""
    fit = scores.style_control_v0_1 if version == OLD else scores.style_control_v2
    suffix, label = NAMES.get(category, ("", "win rate"))
    name = f"style_controlled_win_rate{suffix}"
    return Figure(name, f"{label}, style", *fit(own, others), _interval(version))


def _interval(version: str) -> str:
    return "95 %, bootstrap" if version == OLD else "90 %, bootstrap"
