"""DAPO's dynamic sampling: which of the sampled groups teach something."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def groups_with_signal(advantages: Float[Tensor, "groups size"], keep: int) -> Int[Tensor, " kept"]:
    """Return the first ``keep`` groups with a signal; silent ones fill up, the first of them first.

    A group is silent if all its advantages are 0. Source: DAPO, arXiv 2503.14476, section 3.2,
    which samples until enough groups have a signal. Here a fixed number is sampled and the shape
    stays, so that processes do the same work (ours). A NaN counts as a signal: hidden, it would
    turn a broken preference model into a silent one.

    Args:
        advantages: of all sampled groups.
        keep: groups of an update, at most as many as there are.
    """
    silent = (advantages == 0).all(1)
    return torch.argsort(silent.int(), stable=True)[:keep].sort().values
