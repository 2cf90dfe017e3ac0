"""A sequence classifier with k labels as k rewards: each label is an axis and names it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gprl_lightning.models.chat_text import ChatText
from gprl_lightning.models.preference_model import PreferenceModel, linear


class MultiHead(PreferenceModel):
    """A backbone with a head of k labels; the score on an axis is a difference of logits. Ours.

    Args:
        backbone: a causal ``AutoModel``.
        head: hidden → k, without bias.
        text: how conversations become tokens.
        names: of the labels.
        tau: temperature of the win probability.
        batch_size: responses per forward.
    """

    def __init__(
        self,
        backbone: Any,
        head: nn.Linear,
        text: ChatText,
        names: tuple[str, ...],
        *,
        tau: float = 1.0,
        batch_size: int = 32,
    ):
        super().__init__(
            backbone, head, None, text, tau=tau, l2_normalize=False, batch_size=batch_size
        )
        self.kind, self.num_axes, self.names = "multi_head", head.out_features, names

    @property
    def axes(self) -> tuple[str, ...]:
        """The labels' names."""
        return self.names

    def _read(
        self, last: Float[Tensor, "rows width"], prompt: Float[Tensor, "rows width"]
    ) -> tuple[Float[Tensor, "rows two_axes"], Float[Tensor, "rows axes"]]:
        rewards = linear(self.value_head, last)
        ones = torch.ones_like(rewards)
        return torch.stack([rewards, ones], -1).flatten(-2), ones


def label_names(config: dict[str, Any], count: int) -> tuple[str, ...]:
    """Return the names in ``id2label``, or numbers where they are transformers' own or not k."""
    given = config.get("id2label") or {}
    names = tuple(str(given.get(str(i), f"LABEL_{i}")).replace("/", "_") for i in range(count))
    plain = any(name.startswith("LABEL_") for name in names) or len(set(names)) < count
    return tuple(map(str, range(count))) if plain else names
