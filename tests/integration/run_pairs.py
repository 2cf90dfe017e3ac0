"""A method on one of two processes, or on one alone; as a program, it is one of two.

Arguments: the folder for the results. Rank and meeting point stand in the environment, as torchrun
puts them there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from gprl_lightning.callbacks.invariants import Invariants
from gprl_lightning.config import AlgorithmConfig, Config, DataConfig, DriftConfig
from gprl_lightning.core.gprl_advantages import GPRLAdvantages
from gprl_lightning.core.pair_losses import DPO
from gprl_lightning.core.square_loss import SquareLoss
from gprl_lightning.modules.gprl import GPRLModule
from gprl_lightning.modules.pair_objective import PairObjective
from gprl_lightning.tracking.loggers import MetricsCSV
from tests.pair_worlds import tiny_parts

TEXTS = ["a", "say bb", "c c c", "dd"]
ITERATIONS = 4
METHODS: dict[str, Any] = {
    "dpo": lambda parts: PairObjective(parts, DPO()),
    "dpo_file": lambda parts: PairObjective(parts, DPO(), pairs="file"),
    "sppo": lambda parts: PairObjective(parts, SquareLoss(beta=0.1), round_length=2),
    "rloo": GPRLModule.from_parts,
}


def run(method: str, folder: Path, world: int) -> dict[str, Tensor]:
    """Train for four iterations of four prompts over all processes. Return the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = Config(
        algorithm=AlgorithmConfig(inner_epochs=2, micro_batch_size=4),
        data=DataConfig(prompts_per_step=len(TEXTS) // world),
        drift=DriftConfig(enabled=False),
        iterations=ITERATIONS,
    )
    rule = GPRLAdvantages(normalization="none")
    module = METHODS[method](tiny_parts(config, torch.float64, TEXTS, rule))
    several = {"strategy": "ddp", "devices": world} if world > 1 else {"devices": 1}
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, log_every_n_steps=1, logger=[MetricsCSV(folder)],
        callbacks=[Invariants(folder)], enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False, default_root_dir=folder,
        **several,
    )  # fmt: skip
    trainer.fit(module, module.loader(trainer.global_rank, world))
    return module.policy.state_dict()


if __name__ == "__main__":
    place = Path(sys.argv[1])
    found = {method: run(method, place / method, world=2) for method in METHODS}
    torch.save(found, place / f"rank{torch.distributed.get_rank()}.pt")
