"""AdamW whose weights of record are in float32, while the network computes in bfloat16. Ours.

A step of 1e-6 is under half of bfloat16's last digit for a weight above 5e-4, and rounds away.
So the optimiser holds a float32 *master* of each weight, moves that, and writes it, rounded, into
the network, which then has nothing to cast at any forward pass. PyTorch and torchao have no such
optimiser (theirs round stochastically); the arithmetic here is PyTorch's own AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw  # pyright: ignore[reportUnknownVariableType]
from torch.optim.optimizer import Optimizer

MASTER = "master"  # in a parameter's state: its weights of record


class AdamWMasters(Optimizer):
    """AdamW (Loshchilov and Hutter, 1711.05101) on float32 masters of half-precision weights.

    A parameter of float32 is its own master. One parameter is moved at a time, so that no more than
    its own gradient is ever cast to float32.

    Args:
        params: as for `torch.optim.AdamW`.
        lr: learning rate.
        betas: of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled, as a share of ``lr``.
        fused: one kernel for each parameter.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        fused: bool = True,
    ) -> None:
        both = tuple(betas)  # of a configuration they are a list of its own kind
        defaults = dict(lr=lr, betas=both, eps=eps, weight_decay=weight_decay, fused=fused)
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = _fresh(parameter)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the masters by the gradients, and write them into the network."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        master = state.get(MASTER, parameter)
        beta1, beta2 = group["betas"]
        adamw(
            [master],
            [parameter.grad.to(master.dtype)],  # type: ignore[union-attr]
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            foreach=False,
            fused=group["fused"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        if master is not parameter:
            parameter.copy_(master)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state bit for bit: PyTorch's own would round it to the weights' dtype."""
        super().load_state_dict(state_dict)
        saved = state_dict["state"]
        numbers = (n for group in state_dict["param_groups"] for n in group["params"])
        parameters = (p for group in self.param_groups for p in group["params"])
        for number, parameter in zip(numbers, parameters, strict=True):
            self.state[parameter] = {
                name: value.to(parameter.device, copy=True) for name, value in saved[number].items()
            }


def _fresh(parameter: Tensor) -> dict[str, Tensor]:
    wide = torch.promote_types(parameter.dtype, torch.float32)
    state = {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, dtype=wide),
        "exp_avg_sq": torch.zeros_like(parameter, dtype=wide),
    }
    if wide != parameter.dtype:
        state[MASTER] = parameter.detach().to(wide)
    return state
