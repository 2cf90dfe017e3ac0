"""The protocol of a preference source: whatever scores the responses of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

from torch import nn

from gprl_lightning.core.batch import Columns, Messages
from gprl_lightning.core.embeddings import Embeddings


@runtime_checkable
class PreferenceSource(Protocol):
    """Scores groups of responses on one or more named axes.

    A torch module or not: what has weights is frozen and moved with its owner.
    """

    @property
    def axes(self) -> tuple[str, ...]:
        """A name for each axis, as metrics and tables show it."""
        ...

    @property
    def tau(self) -> float:
        """Temperature of the win probability, ``P(i ≻ j) = sigmoid(Σ_l λ_l s_l(i, j) / tau)``."""
        ...

    def embed(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[Sequence[str]],
        columns: Sequence[Columns],
    ) -> Embeddings:
        """Return vectors of the responses and eigenvalues of the prompts, in one call for a whole
        batch.

        Args:
            prompts: chat messages, one conversation per group.
            responses: as many for each prompt.
            columns: what else each prompt's row in the data holds.
        """
        ...

    def identity(self) -> Mapping[str, object]:
        """Return what a resumed run must find again, by name, in plain values."""
        ...


class _Holder(nn.Module):
    """A module without weights that holds a source."""

    def __init__(self, source: PreferenceSource) -> None:
        super().__init__()
        self.source = source


def as_module(source: PreferenceSource) -> nn.Module:
    """Return the source itself if it is a torch module, so that it is registered; else a holder."""
    return source if isinstance(source, nn.Module) else _Holder(source)


def source_in(module: nn.Module) -> PreferenceSource:
    """Return the source of which `as_module` made this module."""
    return cast("PreferenceSource", module.source if isinstance(module, _Holder) else module)
