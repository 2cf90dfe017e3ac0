"""Networks that are spread over the processes, layer by layer: PyTorch's FSDP2.

Where gradients are made, each layer is gathered for its own forward and backward pass. Where none
are made, a network is `whole` on every process meanwhile: inside nothing is communicated, so that
processes sample, batch and stop as they like. Where memory is too short for that, its layers are
gathered one by one there, too, and processes must make the same steps. The pattern is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from gprl_lightning.runtime.offloading import at_work
from gprl_lightning.runtime.peers import MEETINGS
from gprl_lightning.runtime.processes import max_over_processes, rank

T = TypeVar("T")


def shard(
    root: nn.Module,
    mesh: DeviceMesh,
    step: Callable[..., Any],
    precision: torch.dtype | None,
    gather: bool = True,
) -> None:
    """Spread a network over the processes of a mesh: its layers one by one, and all else together.

    Where only some parameters take gradients (adapters), those stay whole and equal everywhere.

    Args:
        root: what is called with gradients, in place: a policy, or a preference model.
        mesh: of one dimension.
        step: what a layer computes when it is called by ``layer.step``: gathered like ``forward``.
        precision: to gather and compute in; None: that of the weights. Gradients are summed in
            float32.
        gather: all layers at once where the network is to be `whole`; else only what is no layer.
    """
    trained = [p for p in root.parameters() if p.requires_grad]
    some = 0 < len(trained) < len(list(root.parameters()))
    mixed = MixedPrecisionPolicy() if precision is None else MixedPrecisionPolicy(
        param_dtype=precision, reduce_dtype=torch.float32
    )  # fmt: skip
    options: dict[str, Any] = {
        "mesh": mesh, "ignored_params": set(trained) if some else None, "mp_policy": mixed
    }  # fmt: skip
    for layer in layers_of(root):
        target: Any = layer
        target.step = MethodType(step, layer)
        target.stays_sharded = not gather
        fully_shard(layer, **options)
        register_fsdp_forward_method(layer, "step")
    target = root
    target.begin = MethodType(_nothing, root)
    target.stays_sharded = False
    fully_shard(root, **options)
    register_fsdp_forward_method(root, "begin")
    for module in _sharded(root):
        # A sum: each process has divided its loss by the global counts already.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # else an operation that gloo lacks
        module.set_reshard_after_forward(True, recurse=False)


def layers_of(root: nn.Module) -> list[nn.Module]:
    """Return the decoder layers of a network: its longest list of modules."""
    return list(max((m for m in root.modules() if isinstance(m, nn.ModuleList)), key=len))


def is_sharded(network: nn.Module) -> bool:
    """Return True if the network is spread over processes."""
    return isinstance(network, FSDPModule)


_WHOLE: set[FSDPModule] = set()


@contextmanager
def whole(network: nn.Module) -> Iterator[None]:
    """Hold all weights of a network on this process, and on its device (`runtime.offloading`);
    where it is neither sharded nor offloaded nothing happens.

    Every process must enter it. Inside, nothing is communicated; no gradient may be made; and the
    optimiser's parameters are not those that the network has.

    Of a network that was sharded with ``gather=False`` only what is no layer is held: each layer is
    gathered when it is called, see `gathered`, and all processes must make the same calls.
    """
    modules = [m for m in _sharded(network) if m not in _WHOLE and not m.stays_sharded]
    if not modules:
        with at_work(network):
            yield
        return
    MEETINGS.set_out("the gathering of a network's weights")
    for module in modules:
        # Else a layer that is called would be given back, and gathered anew by this process alone.
        module.set_reshard_after_forward(False, recurse=False)
    for module in modules:
        if "begin" in vars(module):  # the first call of all tells FSDP which module is the root
            with torch.no_grad():
                module.begin()
        module.unshard()
    _WHOLE.update(modules)
    try:
        yield
    finally:
        _WHOLE.difference_update(modules)
        for module in modules:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def runs_alone(network: nn.Module) -> bool:
    """Return True if this process can run the network by itself: it is not sharded, or `whole`."""
    return all(module in _WHOLE for module in _sharded(network))


def gathered(layer: nn.Module) -> AbstractContextManager[None]:
    """Hold one layer's weights on this process, without gradients; every process must enter it,
    unless they are here anyway."""
    if not is_sharded(layer) or layer in _WHOLE:
        return nullcontext()
    return _gathered(layer)


@contextmanager
def _gathered(layer: Any) -> Iterator[None]:
    MEETINGS.set_out("the gathering of a layer's weights")
    layer.unshard()
    try:
        yield
    finally:
        layer.reshard()


def on_any(mine: bool) -> bool:
    """Return True if it is so on any process; every process must ask."""
    return float(max_over_processes(torch.tensor(float(mine)))) > 0


def agreed(
    network: nn.Module, parts: Sequence[T], purpose: str = "of an update"
) -> Iterator[tuple[T, bool]]:
    """Yield this process's parts, and whether they count: as many on every process.

    A network that is not `whole` is run by all processes together. One with fewer parts repeats its
    last one, which must not count.

    Args:
        network: that is run on each part.
        parts: of this process, one at least.
        purpose: what the processes then wait for, for the error of one that does not come.
    """
    parts = list(parts)
    if runs_alone(network):
        yield from ((part, True) for part in parts)
        return
    count = int(max_over_processes(torch.tensor(len(parts))))
    for place in range(count):
        MEETINGS.set_out(f"micro-batch {place + 1} of {count} {purpose}")
        yield parts[min(place, len(parts) - 1)], place < len(parts)


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: its own rows, or all of one that is not
    spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """Return all of a tensor; every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's state with all of each tensor, on the CPU of the first process; {} on the
    others, which must ask for it, too."""
    state: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        gathered = full(value.detach())
        if rank() == 0:
            state[name] = gathered.cpu()
    return state


def _sharded(network: nn.Module) -> list[Any]:
    return [m for m in network.modules() if isinstance(m, FSDPModule)]


def _nothing(_: nn.Module) -> None:
    """Return nothing: a call whose hooks are wanted."""
