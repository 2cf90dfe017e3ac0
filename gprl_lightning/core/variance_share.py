"""What the drift monitor measures: each axis's share of the score variance, and its drift.

Source: GPRL, arXiv 2605.18721, for the share and the divergence. That the variance is that of the
scores before normalisation, the floor, and the bootstrap of the threshold are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.advantages import axis_std
from gprl_lightning.core.options import Share

RESAMPLES = 1000
STREAM_STEPS = 60  # six time constants of the default EMA: its start is all but forgotten
LEAST_THRESHOLD = 1e-6  # nats; calibration batches that are all alike would give 0


@dataclass(frozen=True)
class AxisMoments:
    """One step's evidence on drift: sums over groups, which processes can add up.

    Attributes:
        variance_sum: sum over groups of ``λ̃_l² · std_l²``.
        anchored_sum: sum over groups of ``mean_i s_l(y_i, y_base)``; None where it was not
            measured.
        surprise_sum: sum over groups of `group_surprise`.
        count: groups.
    """

    variance_sum: Float[Tensor, " axes"]
    anchored_sum: Float[Tensor, " axes"] | None
    surprise_sum: Float[Tensor, ""]
    count: Float[Tensor, ""]

    def summed(self, all_reduce: Callable[[Tensor], Tensor]) -> AxisMoments:
        """Return these moments over all processes, in one call of ``all_reduce``, which sums a
        tensor."""
        singles = torch.stack([self.surprise_sum, self.count])
        per_axis = [self.variance_sum]
        if self.anchored_sum is not None:
            per_axis.append(self.anchored_sum)
        sums = all_reduce(torch.cat([*per_axis, singles]))
        variance, *anchored = sums[:-2].chunk(len(per_axis))
        return AxisMoments(variance, anchored[0] if anchored else None, sums[-2], sums[-1])

    def anchored_score(self) -> Float[Tensor, " axes"] | None:
        """Return ``δ_l = E_x[mean_i s_l(y_i, y_base)]``, or None where it was not measured."""
        return None if self.anchored_sum is None else self.anchored_sum / self.count

    def surprise(self) -> Float[Tensor, ""]:
        """Return the mean of -log π_ref over responses' tokens, in nats per token."""
        return self.surprise_sum / self.count


def axis_moments(
    scores: Float[Tensor, "groups size axes"],
    eigenvalues: Float[Tensor, "groups axes"],
    share: Share,
    anchored: Float[Tensor, "groups axes"] | None,
    surprise: Float[Tensor, " groups"],
) -> AxisMoments:
    """Sum a batch of group scores, in float64.

    Args:
        scores: `group_scores`, not normalised: on z-scores the statistic is inert.
        eigenvalues: λ of each prompt.
        share: ``weighted`` weighs the std of an axis by λ, ``raw`` by 1.
        anchored: mean over the group of `scores_against` stored responses of the starting policy;
            it sees what the variance does not, a uniform shift of the whole group and an axis
            that saturates.
        surprise: `group_surprise` of the rollout.
    """
    variance = axis_std(scores.double()).square()
    if share == "weighted":
        variance = variance * eigenvalues.double().square()
    anchored_sum = None if anchored is None else anchored.double().sum(0)
    count = torch.full_like(variance.sum(), len(scores))
    return AxisMoments(variance.sum(0), anchored_sum, surprise.double().sum(), count)


def variance_share(moments: AxisMoments, floor: float) -> Float[Tensor, " axes"]:
    """Return ``α_l``, the axes' shares of the variance; each at least ``floor``, then made to
    sum to 1."""
    return floored_share(moments.variance_sum, floor)


def floored_share(
    variance: Float[Tensor, "*batch axes"], floor: float
) -> Float[Tensor, "*batch axes"]:
    """Return shares of the sum over axes, floored and made to sum to 1.

    Where no axis varies at all, every axis has the same share.
    """
    total = variance.sum(-1, keepdim=True)
    share = torch.where(total > 0, variance / total, 1 / variance.shape[-1]).clamp(min=floor)
    return share / share.sum(-1, keepdim=True)


def divergence(
    share: Float[Tensor, "*batch axes"], reference: Float[Tensor, "*#batch axes"]
) -> Float[Tensor, "*batch"]:
    """Return the drift ``KL(α(t) ‖ α(0))`` in nats (GPRL)."""
    return torch.xlogy(share, share / reference).sum(-1)


def bootstrap_threshold(
    shares: Float[Tensor, "steps axes"],
    ema: float,
    quantile: float,
    floor: float = LEAST_THRESHOLD,
    distance: Callable[[Tensor, Tensor], Tensor] = divergence,
) -> float:
    """Return the drift, in nats, that noise alone stays under in a ``quantile`` of steps (ours).

    Each of 1,000 resamples plays such a run: it draws a calibration of as many batches, whose
    mean is its own α(0), and a stream of 60 batches, smoothed by the EMA from that α(0) on; its
    drift is the one at the stream's end. So the uncertainty of α(0) counts as well as the noise
    of α(t). Deterministic: a generator of its own, on the CPU, in float64.

    Args:
        shares: the variance share of each calibration batch.
        ema: share of the old value in the moving average.
        quantile: in (0, 1).
        floor: the least threshold.
        distance: of α(t) from α(0), over the last dimension.
    """
    generator = torch.Generator().manual_seed(0)
    pool = shares.detach().cpu().double()
    steps = len(pool)
    drawn = torch.randint(steps, (RESAMPLES, steps + STREAM_STEPS), generator=generator)
    reference = pool[drawn[:, :steps]].mean(1)
    age = torch.arange(STREAM_STEPS - 1, -1, -1, dtype=torch.float64)
    weight = (1 - ema) * ema**age
    stream = (pool[drawn[:, steps:]] * weight[:, None]).sum(1)
    drift = distance(ema**STREAM_STEPS * reference + stream, reference)
    return max(float(drift.quantile(quantile)), floor)
