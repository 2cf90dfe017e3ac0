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
    rollout: Rollout,
    algorithm: AlgorithmConfig,
    seed: int,
    groups: Int[Tensor, " kept"] | None = None,
) -> Iterator[Int[Tensor, " rows"]]:
    """Yield the rows of each optimiser step: `inner_epochs` passes, shuffled by (seed, iteration).

    Of all groups, or of those in ``groups``.
    """
    size = rollout.group_size
    kept = torch.arange(len(rollout.prompts)) if groups is None else groups.cpu()
    rows = (kept[:, None] * size + torch.arange(size)).flatten()
    generator = torch.Generator().manual_seed(seed * 1_000_003 + 2 * rollout.prompts.iteration + 1)
    for _ in range(algorithm.inner_epochs):
        order = torch.randperm(len(rows), generator=generator)
        yield from split_rows(len(rows), algorithm.minibatches, rows[order])


def micro_batches(
    rows: Int[Tensor, " rows"],
    rollout: Rollout,
    algorithm: AlgorithmConfig,
    keep_groups: bool = False,
) -> list[Int[Tensor, " part"]]:
    """Split rows by length, so that short responses do not pay for a long one's padding.

    On the host, like the parts. No part has more than `micro_batch_size` rows, nor more than
    `micro_batch_tokens` tokens with padding: rows × (longest prompt + longest response). A single
    row above that is a part.

    Args:
        rows: of the rollout.
        rollout: whose prompts and responses they are.
        algorithm: holds the bounds.
        keep_groups: rows that answer one prompt side by side, groups by their longest response:
            for a forward pass that reads a prompt once for all of its rows.
    """
    rows = rows.cpu()
    groups = rows // rollout.group_size
    prompts = rollout.prompts.host.mask.sum(1)[groups]
    responses = rollout.lengths[rows]
    order = responses.argsort(stable=True)
    if keep_groups:
        longest = torch.zeros(len(rollout.prompts), dtype=responses.dtype)
        longest.scatter_reduce_(0, groups, responses, "amax")
        place = longest.argsort(stable=True).argsort()
        order = order[place[groups[order]].argsort(stable=True)]
    most = algorithm.micro_batch_size or len(rows)
    bound = algorithm.micro_batch_tokens
    if not isinstance(bound, int):
        return list(rows[order].split(most))
    parts: list[list[int]] = []
    widths = (0, 0)
    lengths_of = torch.stack([prompts, responses], 1)
    for row, lengths in zip(order.tolist(), lengths_of[order].tolist(), strict=True):
        wider = tuple(map(max, widths, lengths))
        count = len(parts[-1]) + 1 if parts else most + 1
        if count > most or count * sum(wider) > bound:
            parts.append([])
            wider = tuple(lengths)
        parts[-1].append(row)
        widths = wider
    return [rows[torch.tensor(part)] for part in parts]


def first_parts(
    rollout: Rollout, algorithm: AlgorithmConfig, seed: int, keep_groups: bool = False
) -> Iterator[Int[Tensor, " part"]]:
    """Return the micro-batches of the first pass over all rows: forwards of the same shape round
    alike."""
    for rows in islice(minibatches(rollout, algorithm, seed), algorithm.minibatches):
        yield from micro_batches(rows, rollout, algorithm, keep_groups)
