"""The gold judge as the preference source: the ceiling of any proxy. Ours.

``preference_model.kind=gold``: responses are rewarded by the very judge that evaluates them, so
that there is nothing to over-optimise. What stays is what the algorithm and the KL penalty make of
a perfect reward.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from gprl_lightning.core.batch import Columns, Messages
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.sandbox.golds import Gold


class GoldSource:
    """A `PreferenceSource` of one axis: text in, verdicts of pairs out, cycles included.

    Args:
        gold: the one that judges the evaluation.
    """

    axes = ("0",)
    tau = 1.0

    def __init__(self, gold: Gold):
        self.gold = gold

    def embed(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[Sequence[str]],
        columns: Sequence[Columns] = (),
    ) -> Embeddings:
        """Return the verdicts of each group's pairs (1 better, 0 alike, -1 worse), with λ = 1."""
        verdicts = torch.tensor(
            [self._verdicts(p, group) for p, group in zip(prompts, responses, strict=True)]
        )
        return Embeddings.of_pairs(verdicts[..., None], torch.ones(len(verdicts), 1))

    def _verdicts(self, prompt: Messages, responses: Sequence[str]) -> list[list[float]]:
        request = self.gold.request_of(prompt[-1]["content"])
        table = [[0.0] * len(responses) for _ in responses]
        for i, j in itertools.combinations(range(len(responses)), 2):
            table[i][j] = 2 * self.gold.prefer(request, responses[i], responses[j]) - 1
            table[j][i] = -table[i][j]
        return table

    def identity(self) -> dict[str, object]:
        """Return the gold's own."""
        return self.gold.identity()
