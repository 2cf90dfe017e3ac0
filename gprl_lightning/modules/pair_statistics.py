"""What an iteration on pairs logs: sums over pairs, over micro-batches and processes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.iteration import GroupResult, UpdateReport
from gprl_lightning.core.pair_losses import PairLogprobs, PairTerms
from gprl_lightning.modules.statistics import score_metrics
from gprl_lightning.runtime.processes import max_over_processes, sum_over_processes
from gprl_lightning.tracking import metrics


class PairStatistics:
    """Means over all pairs of an iteration's optimiser steps, however they were split.

    Args:
        has_reference: whether there are reference log-probabilities to compare with.
        stays: whether the reference is the starting policy, always: only then does its distance
            tell that the policy leaves it behind.
    """

    def __init__(self, has_reference: bool, stays: bool = True) -> None:
        self.has_reference, self.stays = has_reference, stays
        self.sums: Tensor | float = 0.0
        self.reference_gap: Tensor | float = 0.0
        self.finite: Tensor | bool = True
        self.grad_norms: list[Tensor] = []
        self.bad_rows: list[Tensor] = []

    @torch.no_grad()
    def add(self, pairs: PairLogprobs, terms: PairTerms, entropy: Float[Tensor, ""]) -> None:
        """Add one micro-batch; ``entropy`` is the sum over its tokens."""
        ratios = pairs.logprobs.detach() - pairs.ref_logprobs
        values = [
            terms.loss.sum(),
            terms.margin.sum(),
            (terms.margin > 0).sum(),
            ratios.sum() / 2,
            entropy / 2,
            pairs.tokens.sum() / 2,
            torch.tensor(len(terms.loss), device=ratios.device),
        ]
        self.sums = self.sums + torch.stack([value.detach().double() for value in values])
        self.finite = self.finite & terms.loss.isfinite().all() & entropy.isfinite()
        if not self.grad_norms and len(ratios):
            gap = ratios.abs().max()
            self.reference_gap = torch.maximum(torch.as_tensor(self.reference_gap).to(gap), gap)

    def close(self, rows: Tensor, grad_norm: Tensor) -> bool:
        """Close one optimiser step on ``rows``. Return True if all was finite on every process."""
        finite = torch.as_tensor(self.finite, device=grad_norm.device) & grad_norm.isfinite()
        healthy = float(sum_over_processes((~finite).float())) == 0
        if not healthy:
            self.bad_rows.append(rows)
        self.grad_norms.append(grad_norm.detach())
        self.finite = True
        return healthy

    def report(self) -> UpdateReport:
        """Sum over processes, once, and draw up the iteration's figures."""
        sums = sum_over_processes(torch.as_tensor(self.sums))
        loss, margin, right, ratio, entropy, tokens, pairs = sums
        gaps = torch.stack([torch.as_tensor(self.reference_gap).double().cpu()])
        values = {
            metrics.LOSS: loss / pairs,
            metrics.PAIR_MARGIN: margin / pairs,
            metrics.PAIR_ACCURACY: right / pairs,
            metrics.ENTROPY: entropy / tokens,
            metrics.GRAD_NORM: torch.stack(self.grad_norms).mean(),
        }
        compared = self.has_reference and self.stays
        if self.has_reference:
            values[metrics.PAIR_LOG_RATIO] = ratio / pairs
        return UpdateReport(
            metrics=values,
            ratio_error=0.0,
            reference_gap=float(max_over_processes(gaps)[0]) if compared else None,
            weight_error=0.0,
            bad_rows=tuple(self.bad_rows),
        )


def pair_metrics(
    report: UpdateReport,
    group: GroupResult | None,
    index: int,
    rate: float | Tensor,
    seconds: tuple[float, float, float],
) -> dict[str, Any]:
    """Return all that an iteration logs: of its groups, scores by axis, lengths and truncation.

    Args:
        report: of the update.
        group: what was sampled; None of pairs from a file.
        index: of the iteration, 0-based.
        rate: the learning rate.
        seconds: of sampling, of scoring and reference, and of the update.
    """
    sampling, scoring, updating = seconds
    groups = score_metrics(group.scored, sampling, sum_over_processes) if group else {}
    return {
        **report.metrics,
        **groups,
        metrics.TIME_ROLLOUT: sampling,
        metrics.TIME_SCORE: scoring,
        metrics.TIME_UPDATE: updating,
        metrics.LEARNING_RATE: rate,
        metrics.ITERATION: index + 1.0,
        "step": index + 1.0,  # what loggers take as their x
    }
