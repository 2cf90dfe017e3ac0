"""Sizes of best-of-n on the starting policy (``task=best_of_n``)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from annotated_types import MinLen

from gprl_lightning.config.section import Count, Several, require, section


@section("best_of_n")
class BestOfNConfig:
    """How many answers are sampled to each of ``evaluation.prompts``, and what is chosen of them.

    The judge compares ``samples`` × ``opponents`` pairs for each prompt.
    """

    samples: Several = 64  # N, answers to each prompt
    sizes: Annotated[list[Count], MinLen(1)] = field(
        default_factory=lambda: [1, 2, 4, 8, 16, 32, 64]
    )  # the n of which the best is taken
    opponents: Count = 4  # other answers of the starting policy that each one is judged against

    def __post_init__(self) -> None:
        rising = sorted(set(self.sizes)) == self.sizes and self.sizes[-1] <= self.samples
        wanted = f"rising numbers, up to best_of_n.samples={self.samples}"
        require("best_of_n.sizes", rising, self.sizes, wanted)
