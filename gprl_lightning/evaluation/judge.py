"""Judges: who says which of two responses is better on held-out prompts.

The reward of a run is a preference source; a judge is something that the reward never saw. A judge
is any object with these two methods: ``evaluation.judges={mine: {_target_: my.Judge}}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from gprl_lightning.core.batch import Prompt
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.core.preference import pairwise_scores, total_scores
from gprl_lightning.models.preference_source import PreferenceSource


class Judge(Protocol):
    """Compares responses to held-out prompts, all of an evaluation in one call."""

    def prefer(
        self, prompts: Sequence[Prompt], responses: Sequence[str], others: Sequence[str]
    ) -> Sequence[float | None]:
        """Return a verdict for each prompt: 1 if the response is better than the other, 0 if it is
        worse, 0.5 if they are equal, None if there is no verdict (refused, timed out)."""
        ...

    def axes(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> Mapping[str, Sequence[float]]:
        """Return each response's quality on each of the judge's axes; empty if it has none."""
        ...


class SourceJudge:
    """Any preference source as a judge, by the sign of its score ``Σ_l λ_l s_l``.

    A source with weights was trained so that its probabilities mean something: how near they are
    to a half is told. A reward's scale is anybody's choice, and says nothing of that kind.

    Attributes:
        compared: what the source said of the last comparisons, for the log of answers.
    """

    def __init__(self, source: PreferenceSource):
        self.source = source
        self.compared: Embeddings | None = None

    def to(self, device: torch.device) -> None:
        """Move its weights, if it has any."""
        if isinstance(self.source, nn.Module):
            self.source.to(device)

    def prefer(
        self, prompts: Sequence[Prompt], responses: Sequence[str], others: Sequence[str]
    ) -> list[float | None]:
        """Return 1 where the response scores above the other, 0 below, 0.5 on a tie."""
        return self.weighed(prompts, responses, others)[0]

    @torch.no_grad()
    def weighed(
        self, prompts: Sequence[Prompt], responses: Sequence[str], others: Sequence[str]
    ) -> tuple[list[float | None], list[float | None]]:
        """Return the verdicts, and how likely the response is better: of a source with weights its
        own ``sigmoid(score / τ)``, else the verdict again."""
        score = self._scores(prompts, responses, others).double()
        verdicts = torch.heaviside(score, score.new_tensor(0.5))
        trained = isinstance(self.source, nn.Module)
        chances = torch.sigmoid(score / self.source.tau) if trained else verdicts
        return verdicts.tolist(), chances.tolist()

    def _scores(
        self, prompts: Sequence[Prompt], responses: Sequence[str], others: Sequence[str]
    ) -> Tensor:
        pairs = [list(pair) for pair in zip(responses, others, strict=True)]
        embeddings = self.source.embed(
            [p.messages for p in prompts], pairs, [p.columns for p in prompts]
        )
        self.compared = embeddings
        scores = pairwise_scores(embeddings.vectors)[:, 0, 1]
        return total_scores(scores, embeddings.eigenvalues)

    def axes(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> dict[str, Sequence[float]]:
        """Return nothing: a source compares, and says nothing of one response by itself."""
        return {}
