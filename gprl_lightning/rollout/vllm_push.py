"""New weights into a vLLM server: by a folder, by tensors over a socket, or adapters alone. Ours.

Each way pauses the server until its responses have ended, loads, empties the prefix cache, whose
keys and values are of the old weights, names the version, and resumes. A status code proves
nothing: `gprl_lightning.rollout.vllm_server` compares a probe afterwards.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from transformers.utils import logging

from gprl_lightning.models.policy import Policy
from gprl_lightning.rollout.vllm_http import Gone, SamplerFailed, Server

SHARED_MEMORY = Path("/dev/shm")
JOINING = timedelta(seconds=120)


def adapters_only(policy: Policy) -> bool:
    """Return True if the policy trains low-rank adapters: then they alone are pushed."""
    return policy.model is not policy.causal_lm


@contextmanager
def weights_folder(policy: Policy, root: str | None) -> Iterator[Path]:
    """Write the policy, or its adapters, as Hugging Face does; gone when the block ends.

    Args:
        root: a folder that trainer and servers share; None: shared memory, on one machine.
    """
    base = root or (SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)
    folder = Path(tempfile.mkdtemp(prefix="gprl_weights_", dir=base))
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # one per iteration would bury the run's own
    try:
        policy.model.save_pretrained(folder)  # type: ignore[operator]
        if bars:
            logging.enable_progress_bar()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replacing(server: Server, version: str) -> Iterator[None]:
    """Pause the server, let the block load, empty the prefix cache, name the version, resume.

    Where the block fails the server stays paused: it may hold half of the weights.

    Raises:
        Gone: the cache was not emptied, or the server failed.
    """
    server.post("/pause", mode="wait")
    yield
    if not server.post("/reset_prefix_cache").get("success"):
        raise Gone(f"{server.url}: the prefix cache still holds keys of the old weights")
    server.post("/update_weight_version", {"new_version": version})
    server.post("/resume")


def push_folder(server: Server, folder: Path, version: str) -> None:
    """Make the server read the weights of a folder."""
    with replacing(server, version):
        body = {"method": "load_folder", "kwargs": {"folder": str(folder)}}
        server.post("/collective_rpc", body)


def push_adapters(server: Server, folder: Path, version: str, before: str | None) -> str:
    """Make the server read the adapters of a folder. Returns their name, which is of this version
    alone: keys and values that the cache holds under another name can never be taken for theirs."""
    name = f"{server.model}-{version}"
    with replacing(server, version):
        server.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        if before is not None:
            with suppress(SamplerFailed):  # a server that was started anew has no old ones
                server.post("/v1/unload_lora_adapter", {"lora_name": before})
    return name


class Broadcast:
    """The trainer's end of a weight transfer without a file: gloo on a CPU, NCCL on GPUs.

    One group with the workers of one server, joined on the first push.
    """

    def __init__(self, server: Server, host: str, device: torch.device) -> None:
        self.server, self.device = server, device
        workers = int(server.call("GET", "/get_world_size")["world_size"])
        size = 1 + workers
        store = dist.TCPStore(host, 0, size, True, JOINING, wait_for_workers=False)  # type: ignore
        backend = "nccl" if device.type == "cuda" else "gloo"
        info = {"host": host, "port": store.port, "size": size, "first_rank": 1, "backend": backend}
        with ThreadPoolExecutor(1) as pool:
            joining = pool.submit(server.post, "/init_weight_transfer_engine", {"init_info": info})
            if device.type == "cuda":
                self.group: Any = dist.ProcessGroupNCCL(store, 0, size)  # type: ignore
            else:
                self.group = dist.ProcessGroupGloo(store, 0, size, JOINING)  # type: ignore
            joining.result()

    def push(self, policy: Policy, version: str) -> None:
        """Send every tensor, by its name in a Hugging Face checkpoint."""
        named = dict(policy.causal_lm.named_parameters())
        info = {
            "names": list(named),
            "dtypes": [str(t.dtype).removeprefix("torch.") for t in named.values()],
            "shapes": [list(t.shape) for t in named.values()],
        }
        with replacing(self.server, version), ThreadPoolExecutor(1) as pool:
            self.server.post("/start_weight_update")
            receiving = pool.submit(self.server.post, "/update_weights", {"update_info": info})
            for tensor in named.values():
                whole = cast(torch.Tensor, tensor.detach()).contiguous()
                self.group.broadcast(whole, 0).wait()
            receiving.result()
            self.server.post("/finish_weight_update")
