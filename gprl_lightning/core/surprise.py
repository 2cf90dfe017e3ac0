"""A second statistic of the drift monitor: how far responses stray from what the reference says.

Ours, a deviation from GPRL, off by default. The share of variance cannot see what moves all
responses or all axes alike; the mean of -log π_ref can, needs no gold and no axes, and separates
learning from exploitation by its sign: a policy that improves within the reference's language
becomes less surprising to it, or stays; one that exploits its reward leaves that language. So the
drift is the rise of the smoothed surprise above the lowest level that the run has had.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

RESAMPLES = 2000
LEAST_RISE = 1e-6  # nats per token; calibration batches that are all alike would give 0


def group_surprise(
    ref_logprobs: Float[Tensor, "rollouts tokens"],
    mask: Bool[Tensor, "rollouts tokens"],
    group_size: int,
) -> Float[Tensor, " groups"]:
    """Mean of -log π_ref over the tokens of each group's responses, in nats per token (ours).

    On policy its expectation is the policy's entropy plus its KL to the reference.
    """
    total = torch.where(mask, -ref_logprobs.double(), 0.0).sum(1).view(-1, group_size).sum(1)
    return total / mask.sum(1).view(-1, group_size).sum(1).clamp(min=1)


def surprise_threshold(
    levels: Float[Tensor, " steps"], ema: float, quantile: float, horizon: int
) -> float:
    """Return the rise, in nats per token, that a ``quantile`` of runs that do not drift stay under
    (ours).

    Looking at every step, a monitor has as many chances of a false alarm as the run has steps, and
    smoothing makes them depend on one another; so it is the largest rise of a whole run that is
    held under the threshold, by playing 2,000 such runs. Each has its own level and spread, as far
    as the calibration leaves them open: normal noise, whose variance given ``steps`` batches is
    scaled inverse chi-squared. Deterministic: a generator of its own, on the CPU, in float64.

    Args:
        levels: surprise of each calibration batch.
        ema: share of the old value in the moving average.
        quantile: in (0, 1), of runs.
        horizon: steps of a run.
    """
    levels = levels.detach().cpu().double()
    return max(float(levels.std()) * _highest_rise(len(levels), ema, quantile, horizon), LEAST_RISE)


@lru_cache
def _highest_rise(steps: int, ema: float, quantile: float, horizon: int) -> float:
    """The threshold for calibration batches of unit standard deviation: it scales with it."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    chi_squared = normal(RESAMPLES, steps - 1).square().sum(1)
    spread = ((steps - 1) / chi_squared).sqrt()
    noise = normal(RESAMPLES, horizon) * spread[:, None]
    level = normal(RESAMPLES) * spread / steps**0.5  # the calibration's mean; the true level is 0
    lowest, highest_rise = level.clone(), torch.zeros_like(level)
    for step in range(horizon):
        level = ema * level + (1 - ema) * noise[:, step]
        lowest = torch.minimum(lowest, level)
        highest_rise = torch.maximum(highest_rise, level - lowest)
    return float(highest_rise.quantile(quantile))
