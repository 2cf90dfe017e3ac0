"""How a run must be put together: who is trained, by which optimiser, and who stays as it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from gprl_lightning.core.checksum import checksum
from gprl_lightning.errors import (
    NotFinite,
    NotFrozen,
    NoTrainableParameters,
    ReferenceFollowsPolicy,
    WrongOptimizer,
)
from gprl_lightning.runtime.processes import max_over_processes
from gprl_lightning.runtime.sharding import local


def require_trainable(pl_module: Any) -> None:
    """Raise NoTrainableParameters."""
    if not any(p.requires_grad for p in pl_module.trained.parameters()):
        raise NoTrainableParameters(
            "policy: expected at least one parameter that takes gradients; found none. With "
            "adapters set policy.lora (lora=adapters), and freeze nothing by hand."
        )


def require_frozen(pl_module: Any) -> None:
    """Raise NotFrozen, or ReferenceFollowsPolicy where a network shares the policy's tensors."""
    trainable = _places(p for p in pl_module.trained.parameters() if p.requires_grad)
    for name, network in pl_module.frozen.items():
        if any(p.requires_grad for p in network.parameters()):
            raise NotFrozen(
                f"{name}: expected no parameter that takes gradients; found some. Wrap it in "
                "FrozenModel."
            )
        if any(m.training for m in network.modules()):
            raise NotFrozen(
                f"{name}: expected eval mode, always; found modules in train mode. Wrap it in "
                "FrozenModel."
            )
        if trainable & _places(network.parameters()):
            raise ReferenceFollowsPolicy(
                f"{name}: expected weights of its own; found tensors that it shares with the "
                "policy, and that would move with it. Make it with reference_of(policy)."
            )


def _places(parameters: Iterable[Tensor]) -> set[int]:
    """Return where this process holds them: a shard may be empty, or still to be read."""
    return {t.data_ptr() for t in map(local, parameters) if t.numel() and not t.is_meta}


def require_optimizer(trainer: L.Trainer, pl_module: Any) -> None:
    """Raise WrongOptimizer."""
    held = [p for o in trainer.optimizers for g in o.param_groups for p in g["params"]]
    trainable = [p for p in pl_module.trained.parameters() if p.requires_grad]
    missing = {id(p) for p in trainable} - {id(p) for p in held}
    foreign = {id(p) for p in held} - {id(p) for p in trainable}
    if missing or foreign or len(held) != len(trainable):
        raise WrongOptimizer(
            f"optimizer: expected exactly the policy's {len(trainable)} trainable tensors; found "
            f"{len(held)}, with {len(missing)} missing and {len(foreign)} that are not trained. "
            "Freeze and adapt the policy before the optimiser is built."
        )


@torch.no_grad()
def require_finite_weights(pl_module: Any) -> None:
    """Raise NotFinite where an update left NaN or Inf in a weight: finite gradients may do so."""
    trained = [(n, p) for n, p in pl_module.trained.named_parameters() if p.requires_grad]
    held = [(name, local(p)) for name, p in trained]
    bad = [name for name, p in held if not (p.sum().isfinite() or p.isfinite().all())]
    if float(max_over_processes(torch.tensor(float(len(bad))))) > 0:
        bad = bad or ["a shard of another process"]
        raise NotFinite(
            f"optimizer: expected finite weights after the update; found NaN or Inf in {len(bad)} "
            f"of {len(trained)} tensors, as {bad[0]}. Lower optimizer.lr, raise optimizer.eps, or "
            "set policy.dtype=float32."
        )


def frozen_checksums(pl_module: Any) -> dict[str, str]:
    """Return checksums of all that is frozen, and of what the trained network does not train
    (LoRA's base)."""
    still: list[tuple[str, Tensor]] = [
        (n, p) for n, p in pl_module.trained.named_parameters() if not p.requires_grad
    ]
    parts = {"policy (frozen part)": still}
    parts |= {name: list(m.named_parameters()) for name, m in pl_module.frozen.items()}
    return {name: checksum((n, local(p)) for n, p in part) for name, part in parts.items()}
