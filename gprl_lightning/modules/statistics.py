"""What an iteration logs: sums over tokens and groups, over micro-batches and processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gprl_lightning.core.advantages import axis_correlation, axis_products, axis_std
from gprl_lightning.core.batch import Minibatch, Rollout, ScoredRollout
from gprl_lightning.core.importance import ImportanceCorrection
from gprl_lightning.core.iteration import UpdateReport
from gprl_lightning.core.losses import expected_weight_sums
from gprl_lightning.core.options import LossAggregation
from gprl_lightning.core.transfers import fetched
from gprl_lightning.modules.minibatch_loss import LossTerms
from gprl_lightning.modules.update_sums import UpdateSums
from gprl_lightning.runtime.processes import max_over_processes, sum_over_processes
from gprl_lightning.tracking import metrics

AllReduce = Callable[[Tensor], Tensor]


class UpdateStatistics:
    """Means over all tokens of an iteration's optimiser steps, however they were split.

    Args:
        own: the update takes its own log-probabilities for those of π_old (`AtOldPolicy`).
    """

    def __init__(self, own: bool = False) -> None:
        self.own = own
        self.steps: list[Tensor] = []  # of each closed optimiser step: `UpdateSums`
        self.open: Tensor | float = 0.0
        self.finite: Tensor | bool = True
        self.ratio_max: Tensor | float = 0.0
        self.first: Tensor | float = 0.0  # sampler_gap and reference_gap
        self.grad_norms: list[Tensor] = []
        self.bad_rows: list[Tensor] = []

    @torch.no_grad()
    def add(self, batch: Minibatch, terms: LossTerms) -> None:
        """Add one micro-batch."""
        mask, places = batch.response_mask, batch.places  # never by the mask, which waits
        logprobs, entropy = terms.logprobs[places], terms.entropy[places]
        loss, policy_loss, weights = terms.loss, terms.policy_loss, terms.weights
        lengths = mask.sum(1)
        sums = UpdateSums(
            loss=loss,
            policy_loss=policy_loss,
            kl=terms.kl[places].sum(),
            clipped=terms.policy.clipped[places].sum(),
            entropy=entropy.sum(),
            tokens=mask.sum(),
            weights=weights.double().sum(),
            squared_weights=weights.double().square().sum(),
            rollouts=torch.full_like(loss, len(mask)),
            inverse_lengths=(1 / lengths.clamp(min=1)).sum(),
        )
        self.open = self.open + torch.stack([t.detach().double() for t in sums])
        old, reference = (
            batch.old_logprobs[places] - logprobs,
            batch.ref_logprobs[places] - logprobs,
        )
        checked = [reference, entropy, batch.advantages, loss, policy_loss]
        # Old log-probabilities of -inf would end as a clipped, finite ratio: look before the exp.
        checked += [] if self.own else [old]
        self.finite = self.finite & torch.stack([t.isfinite().all() for t in checked]).all()
        if len(old):
            self.ratio_max = torch.maximum(
                torch.as_tensor(self.ratio_max), terms.policy.ratio[places].max()
            )
            if not self.steps:
                gaps = torch.stack([old.abs().max(), reference.abs().max()])
                self.first = torch.maximum(torch.as_tensor(self.first), gaps)

    def close(self, rows: Tensor, grad_norm: Tensor) -> bool:
        """Close one optimiser step, on `rows`. Return True if all of it was finite, on every
        process. Waits for the device, once: what `report` needs is on the host from here on."""
        finite = torch.as_tensor(self.finite) & grad_norm.isfinite()
        bad = sum_over_processes((~finite).float())
        found = (bad, self.open, self.ratio_max, self.first, grad_norm.detach())
        bad, step, self.ratio_max, self.first, grad_norm = fetched([*map(torch.as_tensor, found)])
        healthy = float(bad) == 0
        if not healthy:
            self.bad_rows.append(rows)
        self.steps.append(step)
        self.grad_norms.append(grad_norm)
        self.open, self.finite = 0.0, True
        return healthy

    def report(self, aggregation: LossAggregation, max_tokens: int) -> UpdateReport:
        """Sum over processes, once, and draw up the iteration's figures."""
        steps = sum_over_processes(torch.stack(self.steps))
        first = torch.as_tensor(self.first).expand(2).double()
        ratio_max = torch.as_tensor(self.ratio_max).double()[None].to(first)
        sampler_gap, reference_gap, ratio_max = max_over_processes(torch.cat([first, ratio_max]))
        sums = UpdateSums(*steps.sum(0))
        values = {
            metrics.LOSS: sums.loss / len(steps),
            metrics.POLICY_LOSS: sums.policy_loss / len(steps),
            metrics.KL: sums.kl / sums.tokens,
            metrics.CLIP_FRACTION: sums.clipped / sums.tokens,
            metrics.ENTROPY: sums.entropy / sums.tokens,
            metrics.RATIO_MAX: ratio_max,
            metrics.GRAD_NORM: torch.stack(self.grad_norms).mean(),
        }
        errors = [
            _weight_error(UpdateSums(*step), aggregation, max_tokens) for step in steps.tolist()
        ]
        return UpdateReport(
            metrics=values,
            ratio_error=0.0 if self.own else float(sampler_gap),
            reference_gap=float(reference_gap),
            weight_error=max(errors),
            bad_rows=tuple(self.bad_rows),
            sampler_gap=float(sampler_gap),
        )


def _weight_error(step: UpdateSums[float], aggregation: LossAggregation, max_tokens: int) -> float:
    expected = expected_weight_sums(
        step.rollouts, step.tokens, step.inverse_lengths, aggregation, max_tokens
    )
    pairs = zip((step.weights, step.squared_weights), expected, strict=True)
    return max(abs(value - right) / right for value, right in pairs)


@torch.no_grad()
def score_metrics(
    scored: ScoredRollout, seconds: float, all_reduce: AllReduce
) -> dict[str, Tensor]:
    """Return scores and advantages per axis, lengths, truncation and speed of one rollout."""
    rollout, axes = scored.rollout, scored.group_scores.shape[-1]
    groups, size = scored.advantages.shape
    tokens = rollout.response_mask.sum()
    std, advantage_std = axis_std(scored.group_scores), axis_std(scored.axis_advantages)
    masked = (advantage_std == 0).double()
    per_group = torch.cat(
        [std.double(), advantage_std.double(), masked, scored.eigenvalues.double()], 1
    )
    flat = scored.advantages.double()
    singles = [
        tokens,
        (~rollout.finished).sum(),
        (flat.abs().amax(1) == 0).sum(),
        flat.sum(),
        (flat**2).sum(),
        torch.tensor(groups),
    ]
    packed = [
        per_group.sum(0),
        torch.stack([s.to(flat).double() for s in singles]),
        axis_products(scored.group_scores).flatten(),
    ]
    sizes = [len(part) for part in packed]
    by_axis, singles, products = all_reduce(torch.cat(packed)).cpu().split(sizes)
    names = (
        metrics.AXIS_SCORE_STD,
        metrics.AXIS_ADVANTAGE_STD,
        metrics.AXIS_MASKED_FRACTION,
        metrics.AXIS_EIGENVALUE,
    )
    tokens, truncated, silent, total, square, groups = singles
    out = {
        metrics.per_axis(name, axis): by_axis[i * axes + j] / groups
        for i, name in enumerate(names)
        for j, axis in enumerate(scored.axes)
    }
    rollouts = groups * size
    return {
        **out,
        metrics.AXIS_CORRELATION: axis_correlation(products.view(axes, axes)),
        metrics.ADVANTAGE_STD: (square / rollouts - (total / rollouts) ** 2).clamp(min=0).sqrt(),
        metrics.NO_SIGNAL_FRACTION: silent / groups,
        metrics.RESPONSE_LENGTH: tokens / rollouts,
        metrics.TRUNCATED_FRACTION: truncated / rollouts,
        metrics.TOKENS_PER_SECOND: tokens / seconds,
    }


@torch.no_grad()
def mismatch_metrics(
    rollout: Rollout, correction: ImportanceCorrection, all_reduce: AllReduce
) -> dict[str, Tensor]:
    """Return how far the sampler's log-probabilities lie from the policy's own, over all tokens.

    Nothing for a sampler that reads the policy's own tensors: what it says is then π_old itself.
    """
    if rollout.version is None:
        return {}
    values = rollout.old_logprobs, rollout.sampler_logprobs, rollout.response_mask
    old, sampled, mask = values
    sums = [(old - sampled)[mask].abs().sum(), correction.bounded(*values).sum(), mask.sum()]
    gap, bounded, tokens = all_reduce(torch.stack([s.double() for s in sums]))
    return {
        metrics.LOGPROB_MISMATCH_MEAN: gap / tokens,
        metrics.BOUNDED_FRACTION: bounded / tokens,
    }
