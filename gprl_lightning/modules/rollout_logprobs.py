"""Log-probabilities of a whole rollout, and whether the sampler's own can be trusted. Ours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gprl_lightning.core.batch import Rollout
from gprl_lightning.core.precision import LogprobBounds, logprob_bounds
from gprl_lightning.models.policy import Policy
from gprl_lightning.processes import max_over_processes

CHECKED_ROWS = 2  # per iteration and process
# The worst of all tokens is not among the checked ones: they must lie well inside the bound.
MARGIN = 4


@dataclass(frozen=True)
class LogprobCheck:
    """How far the sampler's log-probabilities lay from the policy's, on a sample of rows.

    Attributes:
        mismatch: the largest difference, in nats, over all processes.
        bounds: what this precision allows.
        recomputed: whether the policy's own were taken instead.
    """

    mismatch: float
    bounds: LogprobBounds
    recomputed: bool


@torch.no_grad()
def logprobs_of(
    network: Any, rollout: Rollout, parts: Iterable[Int[Tensor, " rows"]]
) -> Float[Tensor, "rollouts tokens"]:
    """log π of the rollout's tokens by `network`, in the given batches of rows; 0 on other rows."""
    out = torch.zeros_like(rollout.old_logprobs)
    prompts = rollout.prompts
    for rows in parts:
        group = rows // rollout.group_size
        logprobs, _ = network(
            prompts.input_ids[group],
            prompts.mask[group],
            rollout.response_ids[rows],
            rollout.response_mask[rows],
        )
        out[rows] = logprobs.to(out)
    return out


def confirmed(
    policy: Policy, rollout: Rollout, parts: Iterable[Int[Tensor, " rows"]]
) -> tuple[Rollout, LogprobCheck]:
    """The rollout with `old_logprobs` from which the first update's ratio is 1 within rounding.

    Two rows of every iteration, others each time, go through the policy's forward pass. Where the
    sampler's log-probabilities differ from it by more than float32 rounds (in half precision they
    do), all are recomputed in `parts`, the batches of the update, which makes the ratio exactly 1.
    A function of weights and rollout alone: a resumed run decides as the uninterrupted one.
    """
    rows = _checked_rows(rollout)
    mask = rollout.response_mask[rows]
    found = logprobs_of(policy, rollout, [rows])[rows]
    difference = (found - rollout.old_logprobs[rows]).abs()[mask]
    mismatch = float(max_over_processes(difference.max()))
    weights = next(policy.parameters())
    bounds = logprob_bounds(weights.dtype, weights.device.type)
    recompute = mismatch > bounds.rounding / MARGIN
    if recompute:
        rollout = replace(rollout, old_logprobs=logprobs_of(policy, rollout, parts))
    return rollout, LogprobCheck(mismatch, bounds, recompute)


def _checked_rows(rollout: Rollout) -> Int[Tensor, " rows"]:
    count = len(rollout.responses)
    start = CHECKED_ROWS * rollout.prompts.iteration
    spread = torch.arange(CHECKED_ROWS) * (count // CHECKED_ROWS)
    return ((start + spread) % count).unique()
