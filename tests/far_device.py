"""A device that keeps its distance, in the CPU's memory: what a GPU would wait for, seen without.

A `Far` tensor says that it is on ``cuda:0`` and computes on the CPU. `FarDevice` counts where the
host would wait for a GPU (a value that is read, a shape that depends on values, a copy that blocks)
with the line that asked, and refuses, as a GPU does, operators on tensors of two devices.
"""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any, ClassVar

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
ROOT = "gprl_lightning"
# Shapes or values that the host must know before it can go on.
READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim",
         "unique_consecutive", "unique_dim_consecutive", "equal", "is_nonzero",
         "_assert_async", "repeat_interleave.Tensor"}  # fmt: skip
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
COPIES = {"copy_", "_to_copy"}


class Far(Tensor):
    """A tensor elsewhere; ``near`` holds its values."""

    near: Tensor
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        # As "meta", autograd needs neither a device's streams nor its thread.
        far: Any = Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(),
            dtype=near.dtype, device=torch.device("meta"),
        )  # fmt: skip
        far.near = near
        return far

    def data_ptr(self) -> int:
        return self.near.data_ptr()

    def untyped_storage(self) -> Any:
        return self.near.untyped_storage()

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return torch.tensor(data, **{"dtype": self.dtype, "device": CUDA, **kwargs})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Far({self.near})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return FarDevice.now[-1].run(func, args, kwargs or {})


class FarDevice(TorchDispatchMode):
    """While it is on, ``cuda`` is a device.

    Attributes:
        waits: where the host waited, by operator and line; how often.
    """

    now: ClassVar[list[FarDevice]] = []
    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # under which nobody starts a real CUDA

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> FarDevice:
        self.now.append(self)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) copies, as here
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.now.pop()
        torch._C._set_only_lift_cpu_tensors(False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operator on the values, and note what it would have waited for."""
        if func is torch.ops.aten._pin_memory.default:
            return args[0].clone()
        name = str(func).removeprefix("aten.").removesuffix(".default")
        short = name.split(".")[0]
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        far = any(isinstance(x, Far) for x in tensors)
        target = kwargs.get("device")
        if target is not None:
            kwargs = {**kwargs, "device": CPU}
        goes = far if target is None else torch.device(target).type != "cpu"
        self._look(name, short, tensors, args, kwargs, far, goes)
        originals = {id(x.near): x for x in tensors if isinstance(x, Far)}
        near = tree_map_only(Far, lambda x: x.near, (args, kwargs))
        out = func(*near[0], **near[1])
        if short == "copy_":
            return args[0]
        if short == "_to_copy" and out is near[0][0]:
            out = out.clone()
        if not goes:
            return out
        return tree_map_only(
            Tensor, lambda x: originals[id(x)] if id(x) in originals else Far(x), out
        )

    def _look(
        self, name: str, short: str, tensors: list[Tensor], args: Any, kwargs: Any, far: bool,
        goes: bool,
    ) -> None:  # fmt: skip
        blocking = not (
            kwargs.get("non_blocking") or (short == "copy_" and len(args) > 2 and args[2])
        )
        if short == "copy_":
            if isinstance(args[0], Far) != isinstance(args[1], Far) and blocking and args[1].dim():
                self._wait(f"copy {'up' if isinstance(args[0], Far) else 'down'}")
        elif short == "_to_copy":
            if far != goes and (blocking or far):
                self._wait(f"copy {'up' if goes else 'down'}")
        elif not far:
            return
        elif short in READS or name in READS:
            self._wait(name)
        elif short in INDEXED:
            for index in (i for i in args[1] if i is not None):
                if index.dtype in (torch.bool, torch.uint8):
                    self._wait(f"{name} by a mask")
                elif not isinstance(index, Far):
                    self._wait(f"{name} by the host's numbers")
        elif any(x.dim() and not isinstance(x, Far) for x in tensors):
            where = [f"{tuple(x.shape)} on {x.device}" for x in tensors]
            raise RuntimeError(f"{name}: tensors on two devices: {', '.join(where)}")

    def _wait(self, what: str) -> None:
        lines = [f for f in traceback.extract_stack() if ROOT in f.filename]
        line = lines[-1] if lines else traceback.extract_stack()[-4]
        place = line.filename.split(f"{ROOT}/")[-1]
        self.waits[f"{what} at {place}:{line.lineno} ({line.line})"] += 1


def move_far(module: nn.Module) -> None:
    """Move parameters and buffers there, in place; what is tied stays tied, and what is offloaded
    learns of it and stays."""
    moved: dict[int, Any] = {}
    offloaded = [part for part in module.modules() if "offloaded" in vars(part)]
    for part in offloaded:
        vars(part)["offloaded"].device = CUDA
    stays = {inner for part in offloaded for inner in part.modules()}
    for part in (part for part in module.modules() if part not in stays):
        for name, value in part._parameters.items():
            if value is not None:
                if id(value) not in moved:
                    moved[id(value)] = nn.Parameter(Far(value.data), value.requires_grad)
                part._parameters[name] = moved[id(value)]
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = moved.setdefault(id(value), Far(value))


class FarAccelerator(CPUAccelerator):
    """Lightning's accelerator of the CPU, which does not mind what the device is called."""

    def setup_device(self, device: torch.device) -> None:
        pass
