"""A network that stands beside the trained one and never moves: reference, preference model."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class FrozenModel(nn.Module, Generic[ModuleT]):
    """Any module, held fixed: registered, so that it moves with its owner, and else out of the way.

    It stays in eval whatever its owner does, takes no gradients, runs without autograd, and adds
    nothing to a checkpoint, as it is loaded from where it came from. Its owner can still be loaded
    with ``strict=True``: it fills in its own keys, and reports those that a checkpoint does bring
    as unexpected. Reach the network itself through ``.module``. Ours.
    """

    def __init__(self, module: ModuleT) -> None:
        super().__init__()
        self.module: ModuleT = module.requires_grad_(False)
        self.train(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> FrozenModel:
        """Stay in eval, always: an owner's ``.train()`` reaches every child."""
        return super().train(False)

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> Any:
        return {} if destination is None else destination

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = {f"{prefix}module.{k}": v for k, v in self.module.state_dict().items()}
        if strict:
            unexpected_keys += [k for k in state_dict if k.startswith(prefix)]
        state_dict.update(own)
