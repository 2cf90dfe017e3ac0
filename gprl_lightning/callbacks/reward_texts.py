"""How many of the texts that the reward reads are longer than it can read: counted and logged."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from gprl_lightning.models.preference_model import texts_read
from gprl_lightning.runtime.processes import sum_over_processes
from gprl_lightning.tracking import metrics


class RewardTexts(L.Callback):
    """Logs the share of an iteration's texts that were cut at ``preference_model.max_tokens``.

    Of all networks of the reward on all processes; nothing is logged where it has none. Stands
    before the evaluation, whose texts the same networks may read.
    """

    def __init__(self) -> None:
        self.before = (0, 0)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.before = texts_read(pl_module.frozen.values())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = texts_read(pl_module.frozen.values())
        new = [a - b for a, b in zip(now, self.before, strict=True)]
        read, cut = sum_over_processes(torch.tensor(new, device=pl_module.device)).tolist()
        if read:
            pl_module.log(metrics.REWARD_CUT_FRACTION, cut / read)
