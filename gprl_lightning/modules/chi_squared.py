"""The weight of the χ² penalty in one iteration's loss, over all processes."""

from __future__ import annotations

import torch

from gprl_lightning.core.advantage_rule import ScoredGroups
from gprl_lightning.core.chi_squared import chi_squared, root_slope
from gprl_lightning.runtime.processes import sum_over_processes


@torch.no_grad()
def chi2_weight(coefficient: float, groups: ScoredGroups) -> float:
    """Return the weight of each response's χ² term: ``c · d sqrt(χ²) / d χ²``; 0 if c is 0.

    χ² is the mean over all responses of the iteration, under the policy that sampled them. So the
    gradient is exactly that of ``c · sqrt(χ²)`` in a rollout's first update; later ones keep the
    root's slope of the first (ours).
    """
    if coefficient == 0:
        return 0.0
    terms = chi_squared((groups.logprobs - groups.ref_logprobs).double())
    sums = torch.stack([terms.sum(), terms.new_tensor(terms.numel())])
    total, count = sum_over_processes(sums)
    return coefficient * float(root_slope(total / count))
