"""Whether an update really moved the weights: bfloat16 ones swallow small steps without a word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from gprl_lightning.core.adamw_masters import MASTER
from gprl_lightning.errors import WeightsUnchanged
from gprl_lightning.runtime.processes import sum_over_processes
from gprl_lightning.runtime.sharding import local

ENTRIES = 4096  # looked at in each tensor
LEAST_SHARE = 0.5  # of the entries with a gradient that counts


class Movement:
    """Compares entries of every trained tensor around the first update that should move them."""

    def __init__(self) -> None:
        self.seen = False  # that they moved
        self._before: list[Tensor] = []

    @torch.no_grad()
    def before(self, optimizers: Sequence[Optimizer]) -> None:
        """Remember the weights until they have been seen to move; a warm-up starts at rate 0."""
        rates = [g["lr"] for o in optimizers for g in o.param_groups]
        wanted = not self.seen and any(rate > 0 for rate in rates)
        self._before = [_entries(w).clone() for _, w in _weights(optimizers)] if wanted else []

    @torch.no_grad()
    def after(self, optimizers: Sequence[Optimizer], signal: bool) -> None:
        """Compare, if the iteration had a signal to learn from, on whichever process.

        A warm-up's first steps, and a decay's last, may be too small for any weights: nothing is
        said of them while the rate is under half its peak.

        Raises:
            WeightsUnchanged: an update with a rate and a gradient above 0 moved next to nothing.
        """
        if not self._before or not signal:
            return
        moved = counted = 0
        for (parameter, now), before in zip(_weights(optimizers), self._before, strict=True):
            if parameter.grad is None:
                continue
            gradient = _entries(parameter.grad).abs()
            # An optimiser leaves alone what has (next to) no gradient: rows of unseen tokens.
            counts = gradient > 0.1 * gradient.square().mean().sqrt()
            counted += int(counts.sum())
            moved += int((counts & (_entries(now) != before)).sum())
        self._before = []
        moved, counted = sum_over_processes(torch.tensor([moved, counted])).tolist()
        if counted == 0:
            return
        if moved < LEAST_SHARE * counted:
            if _under_half_rate(optimizers):
                return
            group = optimizers[0].param_groups[0]
            raise WeightsUnchanged(
                f"optimizer.lr={group['lr']:.3g}: expected the update to move the weights; found "
                f"that {moved / counted:.1%} of those with a gradient moved. The steps are smaller "
                f"than the rounding of {group['params'][0].dtype}: set policy.dtype=float32 (with "
                "trainer.precision=bf16-mixed), optimizer=adamw_masters, or raise optimizer.lr."
            )
        self.seen = True


def _under_half_rate(optimizers: Sequence[Optimizer]) -> bool:
    groups = [g for o in optimizers for g in o.param_groups]
    return all(g["lr"] < g.get("initial_lr", g["lr"]) / 2 for g in groups)


def _weights(optimizers: Sequence[Optimizer]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter, and what the optimiser moves: the parameter, or its float32 master."""
    for optimizer in optimizers:
        for parameter in (p for g in optimizer.param_groups for p in g["params"]):
            yield parameter, optimizer.state.get(parameter, {}).get(MASTER, parameter)


def _entries(tensor: Tensor) -> Tensor:
    flat = local(tensor.detach()).flatten()
    return flat[:: max(1, len(flat) // ENTRIES)]
