"""Several processes as one: sums, maxima, gradients. On one process nothing happens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from gprl_lightning.runtime.peers import MEETINGS


def several() -> bool:
    """Return True if this is one of several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of `tensor` over all processes, the same on each."""
    return _reduced(tensor, dist.ReduceOp.SUM)


def max_over_processes(tensor: Tensor) -> Tensor:
    """Return the largest of each entry over all processes, the same on each."""
    return _reduced(tensor, dist.ReduceOp.MAX)


def _reduced(tensor: Tensor, operation: Any) -> Tensor:
    if not several():
        return tensor
    MEETINGS.set_out("a sum over processes")
    out = tensor.to(_device(), copy=True)
    dist.all_reduce(out, operation)
    return out.to(tensor.device)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Sum gradients in place: every process has already divided its loss by the global counts."""
    if several():
        MEETINGS.set_out("the sum of gradients")
        for parameter in parameters:
            if parameter.grad is None:  # this process had no row that reaches it
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def of_every_process(value: Any) -> list[Any]:
    """Return one picklable value per process, in the order of their ranks."""
    if not several():
        return [value]
    MEETINGS.set_out("an exchange of values")
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def part() -> None:
    """Leave the other processes: what follows is computed by each for itself."""
    if several():
        dist.destroy_process_group()


def processes() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if several() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if several() else 0


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
