"""What a vLLM server's workers load beside vLLM: ``--worker-extension-cls``, by `vllm_start`.

It runs in vLLM's environment, which need not have Lightning, Hydra or this package's other
dependencies: torch, safetensors and vLLM are all that is imported.

On a CPU, vLLM's own reload leaves a tied output layer with the packed copy of its *old* weights,
and answers that all is well: `repack` mends it. On a GPU there is no such copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from vllm.distributed.weight_transfer import (  # type: ignore[import-not-found]
    WeightTransferEngine,
    WeightTransferEngineFactory,
)
from vllm.distributed.weight_transfer.base import (  # type: ignore[import-not-found]
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import (  # type: ignore[import-not-found]
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

JOINING = timedelta(seconds=120)


def repack(model: torch.nn.Module) -> None:
    """Make a CPU's packed copy of the output layer anew, from its weights as they are."""
    head: Any = getattr(model, "lm_head", None)
    if hasattr(head, "cpu_linear"):
        from vllm.model_executor.layers.utils import (  # type: ignore[import-not-found]
            dispatch_cpu_unquantized_gemm,
        )

        dispatch_cpu_unquantized_gemm(head, remove_weight=False)


class Weights:
    """Mixed into vLLM's worker: what a client may call by ``/collective_rpc``."""

    def load_folder(self, folder: str) -> str:
        """Load the weights of a Hugging Face folder. A reload that fails half-way leaves no model
        at all, so the folder is looked at first.

        Raises:
            FileNotFoundError: the folder holds no model.
        """
        if not any(Path(folder).glob("*.safetensors")):
            raise FileNotFoundError(f"no *.safetensors in {folder}")
        self.reload_weights(weights_path=folder)  # type: ignore[attr-defined]
        repack(self.model_runner.get_model())  # type: ignore[attr-defined]
        return folder

    def load_bytes(self, weights: bytes) -> None:
        """Load tensors that `safetensors.torch.save` packed, for an engine in the trainer's own
        process: as a dictionary, tensors arrive as lists."""
        tensors = safetensors.torch.load(weights)
        self.model_runner.reload_weights(weights_iterator=iter(tensors.items()))  # type: ignore[attr-defined]
        repack(self.model_runner.get_model())  # type: ignore[attr-defined]


@dataclass
class Init(WeightTransferInitInfo):
    """Where the trainer waits, as which of how many members, and by what the tensors travel."""

    host: str
    port: int
    size: int
    first_rank: int
    backend: str  # gloo | nccl


@dataclass
class Update(WeightTransferUpdateInfo):
    """The tensors that are about to come, in this order."""

    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]


class Broadcast(WeightTransferEngine[Init, Update]):
    """A weight-transfer engine of vLLM's own interface: the trainer broadcasts each tensor.

    By gloo on CPUs and by NCCL on GPUs; the trainer needs torch alone. Ours.
    """

    init_info_cls, update_info_cls = Init, Update

    def init_transfer_engine(self, init_info: Init) -> None:
        """Join the trainer's group. Returns when all members have."""
        store = dist.TCPStore(  # type: ignore
            init_info.host, init_info.port, init_info.size, False, JOINING
        )
        rank = init_info.first_rank + self.parallel_config.rank
        if init_info.backend == "nccl":
            self.device = torch.device("cuda", torch.cuda.current_device())
            self.group: Any = dist.ProcessGroupNCCL(store, rank, init_info.size)  # type: ignore
        else:
            self.device = torch.device("cpu")
            self.group = dist.ProcessGroupGloo(store, rank, init_info.size, JOINING)

    def start_weight_update(self) -> None:
        """Prepare the model for new weights."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Update) -> None:
        """Load the tensors as they come."""
        self.model.load_weights(self._stream(update_info))

    def _stream(self, update: Update) -> Iterator[tuple[str, torch.Tensor]]:
        for name, dtype, shape in zip(update.names, update.dtypes, update.shapes, strict=True):
            tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
            self.group.broadcast(tensor, 0).wait()
            yield name, tensor

    def finish_weight_update(self) -> None:
        """Put the new weights into the form that the kernels want."""
        finalize_layerwise_reload(self.model, self.model_config)
        repack(self.model)

    def shutdown(self) -> None:
        """Leave the group."""
        self.group = None


if "broadcast" not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine("broadcast", Broadcast)
