"""How far apart each axis puts the responses of a group: in the first iteration, and lately.

A group in which an axis is much narrower than it usually is holds noise on that axis, which a
z-score would blow up: such axes are masked, or their z-scores floored (METHOD §2, ours).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gprl_lightning.core.advantages import axis_std
from gprl_lightning.runtime.processes import sum_over_processes

DECAY = 0.9  # of the running mean, per iteration


class AxisSpread(nn.Module):
    """The mean standard deviation of each axis over the groups of all processes.

    Attributes:
        running: its exponential moving average over iterations; 0 before the first.
        starting: that of the first iteration in which the axis had any.
    """

    running: Float[Tensor, " axes"]
    starting: Float[Tensor, " axes"]

    def __init__(self, num_axes: int):
        super().__init__()
        self.register_buffer("running", torch.zeros(num_axes))
        self.register_buffer("starting", torch.zeros(num_axes))

    @torch.no_grad()
    def observe(self, scores: Float[Tensor, "groups size axes"]) -> Float[Tensor, "groups axes"]:
        """Count one iteration's group scores in. Returns their std, group by group."""
        std = axis_std(scores)
        count = torch.full((1,), float(len(std)), device=std.device)
        *summed, groups = sum_over_processes(torch.cat([std.sum(0), count]))
        mean = (torch.stack(summed) / groups).to(self.running)
        first = self.running == 0
        now = torch.where(first, mean, DECAY * self.running + (1 - DECAY) * mean)
        # A NaN would stay in the mean for ever; in the scores it ends as a skipped step.
        finite = mean.isfinite()
        self.starting = torch.where(first & finite, mean, self.starting)
        self.running = torch.where(finite, now, self.running)
        return std
