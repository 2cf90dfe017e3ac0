"""Several Bradley-Terry models as one cautious reward (Coste et al., arXiv 2310.02743)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from gprl_lightning.core.batch import Columns, Messages
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.core.options import Combination
from gprl_lightning.core.pessimism import combined
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.models.pretrained_preference import load_preference_model


class BTEnsemble(nn.Module):
    """A `PreferenceSource` of one axis, whose reward is what its members make of a response
    together, see `core.pessimism`.

    A response's reward depends on the group that it is compared in, since each member's rewards are
    measured from the group's mean. Rewards are divided by their member's τ, and τ is 1.

    Args:
        members: Bradley-Terry models, two or more.
        combination: how their rewards become one.
        weight: of what is taken off for disagreement.

    Raises:
        ConfigError: fewer than two members, or one that is no Bradley-Terry model.
    """

    tau = 1.0
    axes = ("0",)

    def __init__(
        self,
        members: Sequence[PreferenceModel],
        combination: Combination = "minimum",
        weight: float = 0.5,
    ):
        super().__init__()
        kinds = [member.kind for member in members]
        if len(kinds) < 2 or set(kinds) != {"bradley_terry"}:
            raise ConfigError(
                "preference_model.folders: expected two Bradley-Terry models or more, whose "
                f"rewards can be compared; found {kinds or 'none'}. Set "
                "'preference_model.folders=[a,b,c]', each with a head of one entry."
            )
        self.members = nn.ModuleList(members)
        self.combination: Combination = combination
        self.weight = float(weight)

    @staticmethod
    def of_folders(
        folders: Sequence[str],
        combination: Combination = "minimum",
        weight: float = 0.5,
        dtype: str = "float32",
        max_tokens: int | None = None,
        batch_size: int = 32,
    ) -> BTEnsemble:
        """Load the checkpoints of ``preference_model.folders``, folders or hub names."""
        members = [
            load_preference_model(f, dtype=dtype, max_tokens=max_tokens, batch_size=batch_size)
            for f in folders
        ]
        return BTEnsemble(members, combination, weight)

    @property
    def models(self) -> list[PreferenceModel]:
        """The members."""
        return [member for member in self.members if isinstance(member, PreferenceModel)]

    def embed(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[Sequence[str]],
        columns: Sequence[Columns] = (),
    ) -> Embeddings:
        """Return the combined rewards as vectors ``[r, 1]``; one call of each member."""
        rewards = [
            m.embed(prompts, responses, columns).vectors[..., 0, 0].float() / m.tau
            for m in self.models
        ]
        reward = combined(torch.stack(rewards), self.combination, self.weight)
        return Embeddings.of_rewards(reward[..., None], torch.ones_like(reward[:, :1]))

    def identity(self) -> dict[str, object]:
        """Return what each member is, and how they are combined."""
        return {
            "members": [member.identity() for member in self.models],
            "combination": self.combination,
            "weight": self.weight,
        }
