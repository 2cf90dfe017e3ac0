"""How far log-probabilities of the same tokens may lie apart, by precision of the forward. Ours.

The sampler reads a prompt once and feeds tokens one by one from a cache; the update reads prompt
and response at once, in other batches. Both are right, and they round differently. Measured on the
sandbox's language model, the worst of 1,500 tokens: 9e-6 in float32, and 0.09 under bfloat16
autocast, where another batch shape alone makes 0.08. A shift by one token, or another temperature
or model, is off by whole nats.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LogprobBounds:
    """In nats, for one token.

    Attributes:
        rounding: two correct computations agree within this; the first update's ratio is within
            ``1 ± rounding``.
        limit: beyond this they are not of the same distribution.
    """

    rounding: float
    limit: float


BOUNDS = {
    torch.float64: LogprobBounds(1e-4, 1e-2),
    torch.float32: LogprobBounds(1e-4, 1e-2),
    torch.float16: LogprobBounds(2e-2, 0.5),
    torch.bfloat16: LogprobBounds(1e-1, 2.0),
}


def compute_dtype(weights: torch.dtype, device: str) -> torch.dtype:
    """Return what a forward pass computes in, here and now: autocast's precision, or that of the
    weights.

    Args:
        weights: dtype of the model.
        device: its device's type, as ``cpu``.
    """
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weights


def logprob_bounds(weights: torch.dtype, device: str) -> LogprobBounds:
    """Return the `LogprobBounds` of a forward pass, here and now."""
    return BOUNDS[compute_dtype(weights, device)]
