"""What the host knows of some rows, so that tokens are laid out without a look at the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gprl_lightning.core.transfers import sent_together


class HostTokens(NamedTuple):
    """Prompts and lengths of some rows, on the CPU.

    Attributes:
        prompt_ids: each row's prompt, padded on any side.
        prompt_mask: their real tokens.
        lengths: of the responses, which are right-padded.
    """

    prompt_ids: Int[Tensor, "rows prompt_tokens"]
    prompt_mask: Bool[Tensor, "rows prompt_tokens"]
    lengths: Int[Tensor, " rows"]

    @staticmethod
    def of(
        prompt_ids: Int[Tensor, "rows prompt_tokens"],
        prompt_mask: Bool[Tensor, "rows prompt_tokens"],
        response_mask: Bool[Tensor, "rows tokens"],
    ) -> HostTokens:
        """Read them from the device, which waits for it."""
        return HostTokens(prompt_ids.cpu(), prompt_mask.cpu(), response_mask.sum(1).cpu())

    def places(self, device: torch.device) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Return row and column of every response token, row by row, on the device."""
        rows, columns = places_of(self.lengths)
        rows, columns = sent_together([rows, columns], device)
        return rows, columns


def places_of(lengths: Int[Tensor, " rows"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return row and column of the tokens of right-padded rows: ``mask.nonzero()`` without one.

    >>> places_of(torch.tensor([2, 0, 1]))
    (tensor([0, 0, 2]), tensor([0, 1, 0]))
    """
    rows = torch.arange(len(lengths)).repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    return rows, torch.arange(len(rows)) - before[rows]
