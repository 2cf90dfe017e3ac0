"""One reward out of several estimates of it: their mean, their least, or less where they disagree.

Source: Coste et al., "Reward Model Ensembles Help Mitigate Overoptimization", arXiv 2310.02743:
``minimum`` is their worst-case optimisation (WCO), ``mean_minus_variance`` their uncertainty-
weighted one (UWO), ``mean`` their control. ``mean_minus_std``, in the reward's own units, is ours.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.options import Combination


def combined(
    estimates: Float[Tensor, "members groups size"], combination: Combination, weight: float
) -> Float[Tensor, "groups size"]:
    """Return one reward for each response.

    A Bradley-Terry reward is known up to a shift for each prompt, which labels never compare. So
    each member's estimates are first measured from their group's mean (ours): else the member with
    the lowest shift would always be the least, and a shift would count as disagreement.

    Args:
        estimates: of each member, in logits.
        combination: ``mean``, ``minimum``, ``mean_minus_std`` or ``mean_minus_variance``; std and
            variance are over members, and divide by their number, as in the paper (in its code PPO
            divides by one less).
        weight: of the std or the variance that is taken off.
    """
    offsets = estimates - estimates[:, :, :1]  # equal rewards give exactly 0
    centred = offsets - offsets.mean(2, keepdim=True)
    if combination == "minimum":
        return centred.amin(0)
    mean = centred.mean(0)
    variance = (centred - mean).square().mean(0)
    if combination == "mean_minus_std":
        return mean - weight * variance.sqrt()
    return mean - weight * variance if combination == "mean_minus_variance" else mean
