"""A tiny run on one or two processes, as a program of each of them.

Arguments: folder, processes, prompts per process, normalization, advantage scale, and a checkpoint
to go on from.
"""

import sys
from pathlib import Path

import torch

from gprl_lightning.callbacks.drift_monitor import DriftMonitor
from gprl_lightning.callbacks.rollout_table import RolloutTable
from gprl_lightning.evaluation.judge import SourceJudge
from tests.worlds import held_out, tiny_loader, tiny_module, tiny_trainer

ITERATIONS = 4
folder, world, per_step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
checkpoint = sys.argv[6] if len(sys.argv) > 6 else None
module = tiny_module(
    ITERATIONS, micro_batch_size=3, normalization=sys.argv[4], advantage_scale=sys.argv[5]
)
several = {"strategy": "ddp", "devices": 2} if world == 2 else {}
watching = [
    RolloutTable(folder, every=2),
    held_out(module, SourceJudge(module.preference_model.module)),
]
trainer = tiny_trainer(folder, every=1, callbacks=watching, **several)
loader = tiny_loader(module, ITERATIONS, per_step, rank=trainer.global_rank, world_size=world)
trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
monitor = next(c for c in trainer.callbacks if isinstance(c, DriftMonitor))
result = {
    "weights": module.policy.state_dict(),
    "optimizer": trainer.optimizers[0].state_dict()["state"],
    "anchors": module.anchors.responses,
    "state": monitor.state.state_dict(),
    "control": module.control.axis_multipliers,
    "kl": module.control.kl_coef,
}
torch.save(result, folder / f"rank{trainer.global_rank}.pt")
