"""Whether masks say where responses ended. A mask inferred from pad ids that equal EOS does not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def misplaced_ends(
    response_ids: Int[Tensor, "rows tokens"],
    response_mask: Bool[Tensor, "rows tokens"],
    finished: Bool[Tensor, " rows"],
    eos_ids: Sequence[int],
) -> Bool[Tensor, " rows"]:
    """Return True for a response whose mask is not: its tokens, up to and with the first EOS. Ours.

    So a mask is a prefix and not empty; a finished response has one EOS under it, at its end; a
    truncated one has none. Where the true EOS is outside, nothing teaches the policy to stop.
    """
    lengths = response_mask.sum(1)
    prefix = torch.arange(response_mask.shape[1], device=lengths.device) < lengths[:, None]
    ends = torch.isin(response_ids, torch.tensor(eos_ids, device=lengths.device)) & response_mask
    last = ends.gather(1, (lengths[:, None] - 1).clamp(min=0))[:, 0]
    right = (response_mask == prefix).all(1) & (lengths > 0)
    right &= (last == finished) & (ends.sum(1) == finished)
    return ~right
