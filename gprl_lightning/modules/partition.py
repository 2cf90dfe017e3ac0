"""How the rows of a rollout are dealt out to optimiser steps, and to forward passes within one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from jaxtyping import Int
from torch import Tensor

from gprl_lightning.config import AlgorithmConfig
from gprl_lightning.core.batch import Rollout, split_rows


def minibatches(
    rollout: Rollout, algorithm: AlgorithmConfig, seed: int
) -> Iterator[Int[Tensor, " rows"]]:
    """The rows of each optimiser step: `inner_epochs` passes, shuffled by (seed, iteration)."""
    rows = len(rollout.responses)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + 2 * rollout.prompts.iteration + 1)
    for _ in range(algorithm.inner_epochs):
        order = torch.randperm(rows, generator=generator)
        yield from split_rows(rows, algorithm.minibatches, order)


def micro_batches(
    rows: Int[Tensor, " rows"], rollout: Rollout, algorithm: AlgorithmConfig
) -> list[Int[Tensor, " part"]]:
    """Rows split by length, so that short responses do not pay for a long one's padding."""
    lengths = rollout.response_mask.sum(1).cpu()[rows]
    by_length = rows[lengths.argsort(stable=True)]
    return list(by_length.split(algorithm.micro_batch_size or len(rows)))


def first_parts(
    rollout: Rollout, algorithm: AlgorithmConfig, seed: int
) -> Iterator[Int[Tensor, " part"]]:
    """The micro-batches of the first pass over all rows: forwards of the same shape round alike."""
    for rows in islice(minibatches(rollout, algorithm, seed), algorithm.minibatches):
        yield from micro_batches(rows, rollout, algorithm)
