"""From group scores to advantages: normalise each axis, weight, add.

Source: GPRL, arXiv 2605.18721, steps 2 and 3. The ablations' names and the batch statistics are
ours; ``per_axis_whitened`` is GDPO's order (arXiv 2601.05242): per axis, weighted sum, then
whitened over the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gprl_lightning.core.options import AdvantageScale, Normalization, Weighting

AllReduce = Callable[[Tensor], Tensor]


def _this_process(statistics: Tensor) -> Tensor:
    return statistics


def _centred(values: Float[Tensor, "groups size *rest"]) -> Float[Tensor, "groups size *rest"]:
    """Values less their group's mean. Measured from the first: equal values give exactly 0."""
    offsets = values - values[:, :1]
    return offsets - offsets.mean(1, keepdim=True)


def _standardized(
    values: Float[Tensor, "groups size *rest"], epsilon: float, least_std: Tensor | float = 0.0
) -> Float[Tensor, "groups size *rest"]:
    centred = _centred(values)
    std = centred.square().mean(1, keepdim=True).sqrt()
    # A std of NaN stays: hidden, it would turn a broken preference model into a silent one.
    return centred / (torch.where(std < least_std, least_std, std) + epsilon)


def axis_std(scores: Float[Tensor, "groups size axes"]) -> Float[Tensor, "groups axes"]:
    """Return the standard deviation of each axis in its group, over G and not G - 1 (ours)."""
    return _centred(scores).square().mean(1).sqrt()


def axis_mask(
    std: Float[Tensor, "groups axes"], running_std: Float[Tensor, " axes"], fraction: float
) -> Bool[Tensor, "groups axes"]:
    """Return True where an axis tells the responses apart, not just noise that a z-score amplifies
    (ours).

    Near a cycle the group's vectors sum to about 0, and so do the group scores. A std of NaN is
    kept: hidden, it would turn a broken preference model into one with fewer axes.

    Args:
        std: `axis_std` of each group.
        running_std: the running mean of the axes' std.
        fraction: an axis under this share of its running mean is dropped for that group.
    """
    return ~((std < fraction * running_std.to(std)) | (std == 0))


def normalize_axes(
    scores: Float[Tensor, "groups size axes"],
    normalization: Normalization,
    mask: Bool[Tensor, "groups axes"] | None = None,
    epsilon: float = 1e-4,
    least_std: Float[Tensor, " axes"] | None = None,
) -> Float[Tensor, "groups size axes"]:
    """Return the axis advantages ``Â_l(i) = (ŝ_l(i) - mean_l) / (std_l + ε)`` over the group (GPRL,
    step 2).

    The z-score for ``per_axis`` and ``per_axis_whitened``, the scores as they are for ``global``
    and ``none``. An axis that ``mask`` drops, and an axis on which all responses are equal, gives
    exactly 0. With ``least_std``, a z-score divides by no less than this, so that an axis on which
    the responses hardly differ is not blown up to the size of the others (ours).

    >>> scores = torch.tensor([[[3.0], [1.0], [1.0], [3.0]]])
    >>> normalize_axes(scores, "per_axis", epsilon=0.0)[0, :, 0].tolist()
    [1.0, -1.0, -1.0, 1.0]
    """
    per_axis = normalization in ("per_axis", "per_axis_whitened")
    floor = 0.0 if least_std is None else least_std.to(scores)
    advantages = _standardized(scores, epsilon, floor) if per_axis else scores
    return advantages if mask is None else torch.where(mask[:, None], advantages, 0.0)


def _batch_moments(values: Tensor, all_reduce: AllReduce) -> tuple[Tensor, Tensor]:
    """Mean and population std over all entries of all processes, from float64 sums that add up."""
    wide = values.double()
    count = torch.full_like(wide.sum(), values.numel())
    sums = all_reduce(torch.stack([count, wide.sum(), wide.square().sum()]))
    mean, square = sums[1] / sums[0], sums[2] / sums[0]
    return mean, (square - mean.square()).clamp(min=0).sqrt()


def aggregate_axes(
    axis_advantages: Float[Tensor, "groups size axes"],
    eigenvalues: Float[Tensor, "groups axes"],
    multipliers: Float[Tensor, " axes"],
    normalization: Normalization,
    weighting: Weighting,
    advantage_scale: AdvantageScale,
    epsilon: float = 1e-4,
    all_reduce: AllReduce = _this_process,
) -> Float[Tensor, "groups size"]:
    """Return the advantages ``Â(i) = Σ_l λ_l(x) · m_l · Â_l(i)`` (GPRL, step 3), with its ablations
    (ours).

    Args:
        axis_advantages: from `normalize_axes`, with the same ``normalization``.
        eigenvalues: λ of each prompt.
        multipliers: m of each axis, the drift controller's; 1 at rest.
        normalization: ``global`` takes one z-score of the sum in each group,
            ``per_axis_whitened`` centres and divides by the std over the whole batch (GDPO).
        weighting: ``uniform`` replaces each λ_l by the mean over axes, so that their sum is kept;
            ``unit`` by 1, which is MO-GRPO's plain sum (arXiv 2509.22047).
        advantage_scale: ``matched`` divides by the std over the whole batch, without centring.
        epsilon: added to every std.
        all_reduce: sums a small float64 tensor over processes, so that the batch is that of all
            of them.
    """
    weights = eigenvalues.to(axis_advantages)
    if weighting == "uniform":
        weights = weights.mean(-1, keepdim=True).expand_as(weights)
    if weighting == "unit":
        weights = torch.ones_like(weights)
    weights = weights * multipliers.to(axis_advantages, non_blocking=True)
    advantages = (axis_advantages * weights[:, None]).sum(-1)
    if normalization == "global":
        advantages = _standardized(advantages, epsilon)
    if normalization == "per_axis_whitened":
        mean, std = _batch_moments(advantages, all_reduce)
        advantages = ((advantages - mean) / (std + epsilon)).to(axis_advantages)
    if advantage_scale == "matched":
        _, std = _batch_moments(advantages, all_reduce)
        advantages = (advantages / (std + epsilon)).to(axis_advantages)
    return advantages


def axis_products(scores: Float[Tensor, "groups size axes"]) -> Float[Tensor, "axes axes"]:
    """Return the sums, over all responses, of products of two axes' group-centred scores (ours).

    In float64. They add up over groups and processes, as correlations do not.
    """
    centred = _centred(scores).flatten(0, 1).double()
    return centred.T @ centred


def axis_correlation(products: Float[Tensor, "axes axes"]) -> Float[Tensor, ""]:
    """Return the mean over pairs of axes of the correlation of their group scores (ours).

    Near 1, the axes are copies of one scalar and GPRL is scalar GRPO. A pair with an axis that
    never varies counts as 0, and so does a model of one axis.

    Args:
        products: `axis_products` of all responses.
    """
    axes = len(products)
    if axes == 1:
        return products.new_zeros(())
    norm = products.diagonal().sqrt()
    scale = norm[:, None] * norm
    row, column = torch.triu_indices(axes, axes, offset=1, device=products.device)
    return torch.where(scale > 0, products / scale, 0.0)[row, column].mean()
