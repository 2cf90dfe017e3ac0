"""A bfloat16 policy under `AdamWMasters` in a whole run: it learns by small steps, and resumes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from gprl_lightning.core.adamw_masters import MASTER, AdamWMasters
from gprl_lightning.errors import WeightsUnchanged
from tests.equality import differences
from tests.worlds import tiny_loader, tiny_module, tiny_policy, tiny_trainer

LR = 2e-6  # of which bfloat16 weights notice next to nothing


def run(folder, optimizer, ckpt_path=None):
    module = tiny_module(3, policy=tiny_policy(torch.bfloat16), micro_batch_size=6)
    module.make_optimizer = partial(optimizer, lr=LR)
    trainer = tiny_trainer(folder)
    if ckpt_path is not None:
        logger: Any = trainer.loggers[0]
        logger.continue_from(1)
    trainer.fit(module, tiny_loader(module, 3), ckpt_path=ckpt_path, weights_only=True)
    return module, trainer.optimizers[0]


def test_a_run_by_small_steps_resumes_bit_for_bit(tmp_path):
    whole, optimizer = run(tmp_path / "whole", AdamWMasters)
    first = tmp_path / "whole" / "checkpoints" / "iteration_000001.ckpt"
    again, resumed = run(tmp_path / "again", AdamWMasters, first)
    assert not differences(whole.state_dict(), again.state_dict())
    assert not differences(optimizer.state_dict(), resumed.state_dict())
    weight = again.trained_parameters[0]
    assert weight.dtype == torch.bfloat16 and resumed.state[weight][MASTER].dtype == torch.float32


def test_without_masters_such_steps_are_refused(tmp_path):
    with pytest.raises(WeightsUnchanged, match="optimizer=adamw_masters"):
        run(tmp_path, torch.optim.AdamW)
