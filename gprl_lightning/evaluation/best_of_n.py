"""Best-of-n from one sample of N answers: what the best of n by a proxy is worth to a judge.

Source: Gao, Schulman and Hilton, "Scaling Laws for Reward Model Overoptimization", arXiv
2210.10760: the distance of best-of-n from the policy is ``KL = log n − (n − 1)/n``, and the mean
over all subsets of n out of N answers is an unbiased estimate of its worth (Nakano et al., WebGPT,
arXiv 2112.09332, appendix I).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gprl_lightning.evaluation.win_rate import WinRate, win_rate

Array = NDArray[np.float64]
COLUMNS = ("n", "kl", "win_rate", "win_rate_low", "win_rate_high", "quality")


class BestOf(NamedTuple):
    """What the best of n answers comes to.

    Attributes:
        n: answers that the best is taken of.
        kl: of its distribution from the policy's, in nats.
        gold: the judge's win rate over other answers of the policy, with its interval over prompts.
        quality: mean quality of the chosen answer by the proxy, in its logits.
    """

    n: int
    kl: float
    gold: WinRate
    quality: float


def kl_of_best(n: int) -> float:
    """Return ``log n − (n − 1)/n``, in nats: exact where no two answers have equal quality.

    >>> round(kl_of_best(64), 3)
    3.175
    """
    return math.log(n) - (n - 1) / n


def chances_of_best(quality: Array, n: int) -> Array:
    """Return how often each of N answers is the best of a subset of n, over all subsets.

    Of the N answers in order of quality the i-th is the best of ``C(i − 1, n − 1)`` subsets out of
    ``C(N, n)``. Answers of equal quality share theirs.

    Args:
        quality: of each answer to one prompt; finite.
        n: 1 to N.
    """
    total = len(quality)
    ranked = np.array([math.comb(i, n - 1) / math.comb(total, n) for i in range(total)])
    _, tied = np.unique(quality, return_inverse=True)
    place = np.argsort(np.argsort(quality, kind="stable"), kind="stable")
    chances = ranked[place]
    return (np.bincount(tied, chances) / np.bincount(tied))[tied]


def best_of_n(quality: Array, outcome: Array, sizes: Sequence[int]) -> list[BestOf]:
    """Return what the best of each n is worth.

    Args:
        quality: [prompts, N], by the proxy.
        outcome: [prompts, N], each answer's win rate over other answers of the policy.
        sizes: the n.
    """
    found: list[BestOf] = []
    for n in sizes:
        chances = np.stack([chances_of_best(row, n) for row in quality])
        gold = win_rate((chances * outcome).sum(1).tolist())
        found.append(BestOf(n, kl_of_best(n), gold, float((chances * quality).sum(1).mean())))
    return found


def write_curve(curve: Sequence[BestOf], folder: Path, title: str) -> list[Path]:
    """Write ``best_of_n.csv`` and ``best_of_n.png``. Return the files."""
    table, picture = folder / "best_of_n.csv", folder / "best_of_n.png"
    with table.open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([b.n, b.kl, *b.gold, b.quality] for b in curve)
    _draw(curve, picture, title)
    return [table, picture]


def _draw(curve: Sequence[BestOf], file: Path, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    plot: Any = figure.add_subplot()
    x = [math.sqrt(b.kl) for b in curve]
    plot.axhline(0.5, color="0.7", linewidth=1)
    plot.fill_between(x, [b.gold.low for b in curve], [b.gold.high for b in curve], alpha=0.2)
    plot.plot(x, [b.gold.mean for b in curve], "o-")
    for b, place in zip(curve, x, strict=True):
        plot.annotate(f"{b.n}", (place, b.gold.mean), (0, 7), textcoords="offset points",
                      ha="center", fontsize=8)  # fmt: skip
    plot.set(xlabel="√KL of best-of-n, in √nats (n at the points)", title=title)
    plot.set(ylabel="judge's win rate over the policy")
    plot.margins(y=0.12)
    figure.savefig(file, dpi=110)
