"""A policy loss of one's own: the importance-weighted policy gradient, without a clip.

python train.py --config-dir examples/conf algorithm/policy_loss=unclipped
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gprl_lightning.core.batch import Minibatch
from gprl_lightning.core.policy_loss import PolicyTerms


@dataclass(frozen=True)
class Unclipped:
    """``-A · min(π_θ / π_old, most)``, whose gradient ends only far above 1."""

    most: float = 10.0
    reach: Literal["token", "sequence"] = "token"

    def __call__(self, logprobs: Tensor, batch: Minibatch) -> PolicyTerms:
        ratio = (logprobs - batch.old_logprobs).exp().clamp(max=self.most)
        loss = -ratio * batch.advantages[:, None]
        return PolicyTerms(loss, ratio.detach(), torch.zeros_like(batch.response_mask))
