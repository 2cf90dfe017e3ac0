"""Log-probabilities of a whole rollout, and whether the sampler's own can be trusted. Ours."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gprl_lightning.config import AlgorithmConfig
from gprl_lightning.core.batch import Rollout
from gprl_lightning.core.iteration import LogprobCheck
from gprl_lightning.core.losses import zero_outside
from gprl_lightning.core.precision import logprob_bounds
from gprl_lightning.core.transfers import sent
from gprl_lightning.models.policy import Policy, weights_in, whole_policy
from gprl_lightning.modules.partition import micro_batches
from gprl_lightning.runtime.processes import max_over_processes
from gprl_lightning.runtime.sharding import agreed

CHECKED_ROWS = 2  # of a run's first rollout, on each process
HALF_ROUNDING = 1e-2  # nats; float32 rounds by a hundredth of it
# Other rows, or the next iteration's, may be worse: what is seen must lie well inside the bound.
MARGIN = 4


@torch.no_grad()
def log_ratios(
    policy: Policy, reference: Any, algorithm: AlgorithmConfig, rollout: Rollout
) -> Float[Tensor, " rollouts"]:
    """Return ``log π - log π_ref`` of whole responses, in nats, in the update's micro-batches."""
    rows = torch.arange(len(rollout.responses))
    parts = list(micro_batches(rows, rollout, algorithm, policy.shares_prompts))
    ours, theirs = (logprobs_of(network, rollout, parts) for network in (policy, reference))
    return (ours - theirs).double().sum(1)


def sampler_is_off(check: LogprobCheck) -> bool:
    """Return True if the sampler is off by more than float32 rounds, as it is in half precision."""
    return check.mismatch > check.bounds.rounding / MARGIN


@torch.no_grad()
def logprobs_of(
    network: Any, rollout: Rollout, parts: Iterable[Int[Tensor, " rows"]]
) -> Float[Tensor, "rollouts tokens"]:
    """Return log π of the rollout's tokens by `network`, in the given batches of rows; 0 on
    other rows."""
    out = torch.zeros_like(rollout.old_logprobs)
    prompts = rollout.prompts
    with whole_policy(network):
        # A part that is repeated for others gives the same again.
        for part, _ in agreed(weights_in(network), list(parts), "of log-probabilities"):
            rows = sent(part, out.device)
            group = rows // rollout.group_size
            logprobs, _ = network(
                prompts.input_ids[group],
                prompts.mask[group],
                rollout.response_ids[rows],
                rollout.response_mask[rows],
                known=rollout.host_tokens(part),
            )
            out[rows] = logprobs.to(out)
    return out


def confirm_old_logprobs(
    policy: Policy,
    rollout: Rollout,
    parts: Iterable[Int[Tensor, " rows"]],
    differed: bool | None,
    one_update: bool = False,
) -> tuple[Rollout, LogprobCheck]:
    """Return the rollout with `old_logprobs` from which the first update's ratio is 1 within
    rounding.

    They are the sampler's own, unless those differ from the policy's: then all are recomputed in
    `parts`, the batches of the update, which makes the ratio exactly 1. The last iteration's check
    tells, which costs nothing: the update computes these log-probabilities anyway. Only a run's
    first rollout has none before it, and sends two rows through the policy. A sampler with weights
    of its own is never taken at its word: all are recomputed. Of older weights, any gap is right.

    Args:
        differed: `sampler_is_off` of the iteration before; None: there was none.
        one_update: the rollout serves one optimiser step. Then nothing is recomputed for a sampler
            that reads the policy's own tensors: π_θ still is π_old in that step's forward pass. A
            run's first rollout is, so that two forward passes are seen to agree.
    """
    weights = next(policy.parameters())
    check = LogprobCheck(0.0, logprob_bounds(weights.dtype, weights.device.type), False)
    if rollout.version is not None:
        differed = True
        if rollout.version < rollout.prompts.iteration:
            check = replace(check, bounds=replace(check.bounds, limit=math.inf))
    first = differed is None
    if first:
        rows = _checked_rows(rollout)
        found = logprobs_of(policy, rollout, [rows])
        check = replace(check, mismatch=_largest(found, rollout, rows))
        # In half precision two rows prove nothing: others may be off by several times as much.
        differed = sampler_is_off(check) or check.bounds.rounding >= HALF_ROUNDING
    if not differed:
        return rollout, check
    if one_update and not first and rollout.version is None:
        return rollout, replace(check, recomputed=True, by_update=True)
    own = logprobs_of(policy, rollout, parts)
    mismatch = _largest(own, rollout, torch.arange(len(own)))
    rollout = replace(rollout, old_logprobs=own).with_lengths(rollout.lengths)
    return rollout, replace(check, mismatch=mismatch, recomputed=True)


def _checked_rows(rollout: Rollout) -> Int[Tensor, " rows"]:
    count = len(rollout.responses)
    return (torch.arange(CHECKED_ROWS) * (count // CHECKED_ROWS)).unique()


def _largest(found: Tensor, rollout: Rollout, rows: Tensor) -> float:
    rows = sent(rows, found.device)
    difference = zero_outside(rollout.response_mask, found - rollout.sampler_logprobs)
    return float(max_over_processes(difference[rows].abs().max()))
