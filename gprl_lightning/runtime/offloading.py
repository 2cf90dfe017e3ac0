"""Networks that wait on the CPU, and are on the device while they are at work. Ours.

For cards that have no room for all networks at once. Who is offloaded never changes, so that
nothing is copied back; its weights lie in pinned memory and are sent once a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

CPU = torch.device("cpu")


@dataclass
class Offloaded:
    """Where a network works, and whether it is there.

    Attributes:
        device: the one that it was last moved to; its weights stayed.
        at_work: they are there.
    """

    device: torch.device = CPU
    at_work: bool = False


def offload(network: nn.Module) -> None:
    """Let a frozen network stay on the CPU wherever it or its owner is moved; see `at_work`.

    Raises:
        ValueError: it takes gradients: what is trained is always needed.
    """
    if any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"{type(network).__name__}: expected a frozen network to offload.")
    vars(network)["offloaded"] = Offloaded()
    vars(network)["_apply"] = MethodType(_stay, network)


def _stay(network: nn.Module, convert: Callable[[Tensor], Tensor], recurse: bool = True):
    """Take another dtype, as PyTorch's own `_apply` does, but no other device: note it."""
    state: Offloaded = vars(network)["offloaded"]
    probe = convert(torch.empty(0))
    if probe.dtype == torch.float32:
        state.device = probe.device
        return network
    return nn.Module._apply(network, lambda tensor: convert(tensor).to(tensor.device), recurse)


@contextmanager
def at_work(network: nn.Module) -> Iterator[None]:
    """Hold the weights of an offloaded network on its device; any other stays as it is."""
    state: Offloaded | None = vars(network).get("offloaded")
    if state is None or state.at_work:
        yield
        return
    places: list[tuple[dict[str, Any], str, Tensor]] = [
        (held, name, tensor)
        for module in network.modules()
        for held in (module._parameters, module._buffers)
        for name, tensor in held.items()
        if tensor is not None
    ]
    sent = {tensor: _sent(tensor, state.device) for _, _, tensor in places}  # tied ones once
    state.at_work = True
    try:
        for held, name, tensor in places:
            held[name] = sent[tensor]
        yield
    finally:
        for held, name, tensor in places:
            held[name] = tensor
        state.at_work = False


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy on the device. Memory is pinned once: its copies need not be waited for."""
    if device.type == "cuda" and not tensor.is_pinned():
        tensor.data = tensor.data.pin_memory()
    copy = tensor.detach().to(device, non_blocking=True)
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy
