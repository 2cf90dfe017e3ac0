"""A χ² penalty on whole responses, beside the KL penalty or in its stead.

Source: Laidlaw, Singhal and Dragan, "Correlated Proxies: A New Definition and Improved Mitigation
for Reward Hacking", arXiv 2403.03185, which bounds what is lost to a proxy by
``sqrt(χ²(π ‖ π_ref))``; the estimate is that of its RLHF code. With ``r = π_θ(y)/π_ref(y)`` of a
whole response, ``χ² = E[(r − 1) + (1/r − 1)]`` over the policy's own responses: the second term has
a mean of 0, and keeps the estimate from falling below 0.

As a loss, differentiated through r, its expected gradient is that of
``½ χ²(π_θ ‖ π_ref) + KL(π_ref ‖ π_θ)`` (ours; tested by enumeration), as k3 measures one KL and
pulls by the other.
"""

from __future__ import annotations

import math

from jaxtyping import Bool, Float
from torch import Tensor

from gprl_lightning.core.losses import zero_outside

KNEE = 10.0  # nats; beyond it r and 1/r go on along their tangents, as in the authors' code
LEAST = 1e-4  # of χ², under its root, likewise


def chi_squared(log_ratios: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return ``(r − 1) + (1/r − 1)`` of each response, which is never negative.

    Args:
        log_ratios: log r of whole responses, in nats.

    >>> [round(x, 3) for x in chi_squared(Tensor([1.0, 3.0]).log()).tolist()]  # by r
    [0.0, 1.333]
    """
    return _expm1(log_ratios) + _expm1(-log_ratios)


def _expm1(x: Tensor) -> Tensor:
    bounded = x.clamp(max=KNEE)
    return bounded.expm1() + math.exp(KNEE) * (x - bounded)


def chi_squared_by_token(
    logprobs: Float[Tensor, "rows tokens"],
    ref_logprobs: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
) -> Float[Tensor, "rows tokens"]:
    """Spread each response's `chi_squared` evenly over its tokens, 0 elsewhere (ours).

    So it is weighed in the loss as the response's KL is, which is a sum over the same tokens.
    """
    log_ratios = zero_outside(mask, logprobs - ref_logprobs).sum(1)
    share = chi_squared(log_ratios) / mask.sum(1).clamp(min=1)
    return zero_outside(mask, share[:, None].expand_as(logprobs))


def root_slope(mean: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the derivative of ``sqrt(χ²)`` by χ², at the mean over a batch.

    The penalty is the root of a mean over all responses, which is no sum over micro-batches; its
    gradient is: each response's, times this.
    """
    return 1 / (2 * mean.clamp(min=LEAST).sqrt())
