"""Lightning's model-parallel strategy for FSDP2: watched, and with checkpoints of our own.

What is sharded, and how, is the module's to say in ``configure_model``: `runtime.sharding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.optim import Optimizer

from gprl_lightning.errors import ConfigError
from gprl_lightning.runtime.checkpoint_io import PlainCheckpointIO
from gprl_lightning.runtime.ddp import Watched
from gprl_lightning.runtime.sharded_checkpoint import load_sharded, save_sharded


class WatchedFSDP2(Watched, ModelParallelStrategy):
    """FSDP2 over all processes of a run.

    Args:
        folder: the run's folder.
        peer_timeout: seconds that a process may be waited for.
        gather: the policy at once for a rollout, and whatever else is read without gradients; else
            layer by layer, as in the update (``rollout.gather``).
    """

    def __init__(self, folder: Path, peer_timeout: float, gather: bool = True):
        if not hasattr(dcp, "HuggingFaceStorageReader"):
            raise ConfigError(
                f"trainer.strategy=fsdp2: expected PyTorch 2.8 or newer, whose checkpoints of "
                f"shards are plain safetensors; found {torch.__version__}. Install one, or set "
                "trainer.strategy=ddp."
            )
        super().__init__(folder, peer_timeout, tensor_parallel_size=1)
        self.gather = gather

    def setup_environment(self) -> None:
        assert self.cluster_environment is not None
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        self.begin_watch()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Return True: moments are restored as Lightning restores those of one device."""
        return True

    # Checkpoints: each process writes and reads its own shards ------------------------------------

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the module's parameters, as this process has them: spread ones stay spread."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict(keep_vars=True)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimiser's state, likewise."""
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return inner.state_dict()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write a folder, all processes together: see `save_sharded`."""
        io = cast(PlainCheckpointIO, self.checkpoint_io)
        save_sharded(checkpoint, Path(filepath), io)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote, also by more or fewer processes."""
        assert self.lightning_module is not None
        return load_sharded(Path(checkpoint_path), self.lightning_module, self.optimizers)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)
