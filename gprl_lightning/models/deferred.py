"""Policies that are built without weights and read theirs shard by shard: no process holds a whole
one. Ours, around PyTorch's reader of safetensors.

For the architectures that `models.decoder` knows: their tensors have the files' names. What a
checkpoint that differs is refused for is said by the ordinary way in, `models.network_files`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from gprl_lightning.config.checkpoint_headers import weight_files
from gprl_lightning.models.decoder import is_known
from gprl_lightning.models.network_files import CheckpointError, one_line
from gprl_lightning.models.shared_prompt import SDPA
from gprl_lightning.runtime.processes import max_over_processes
from gprl_lightning.runtime.sharding import local

if TYPE_CHECKING:
    from gprl_lightning.models.policy import Policy


def deferred_network(folder: Path, dtype: torch.dtype, attention: str | None) -> Any:
    """Return the causal LM of a folder without its weights, on the meta device; None if it has to
    be loaded whole: its code or its files are not plain, and `load_network` says what is wrong.
    """
    if not folder.is_dir() or attention not in (None, SDPA):
        return None
    with one_line(f"policy.path={str(folder)!r}"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        places = _places(folder)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention
            )
    if not is_known(model):
        return None
    expected = {name: list(p.shape) for name, p in model.named_parameters()}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - expected.keys()
    found = {name: shape for name, (_, shape) in places.items() if name not in tied}
    if found != expected:
        return None
    generation = folder / "generation_config.json"
    if generation.is_file():
        with one_line(f"policy.path={str(folder)!r}: generation_config.json"):
            values = json.loads(generation.read_text(encoding="utf8"))
            model.generation_config = GenerationConfig.from_dict(values)
    return model.eval()


def weights_of(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """Yield a policy's weights by name; from its files, one by one, while they are not read."""
    if policy.weights_from is None:
        yield from policy.named_parameters()
        return
    from safetensors import safe_open

    places = _places(policy.weights_from)
    for name, parameter in policy.named_parameters():
        stored = name.removeprefix("model.")
        with safe_open(places[stored][0], framework="pt") as tensors:
            yield name, tensors.get_tensor(stored).to(parameter.dtype)


def read_shards(policy: Policy, device: torch.device) -> None:
    """Read this process's shards of a sharded policy that has no weights yet, all processes
    together.

    Raises:
        CheckpointError: a weight is not finite.
    """
    from torch.distributed import checkpoint

    dcp: Any = checkpoint
    folder, policy.weights_from = policy.weights_from, None
    policy.to_empty(device=device)
    model: Any = policy.causal_lm
    angles = model.base_model.rotary_emb  # its buffers are in no file
    model.base_model.rotary_emb = type(angles)(model.config).to(device).train(angles.training)
    state = {name: p.detach() for name, p in model.named_parameters()}
    dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(str(folder)))
    bad = [name for name, value in state.items() if not local(value).isfinite().all()]
    if float(max_over_processes(torch.tensor(float(len(bad))))) > 0:
        raise CheckpointError(
            f"policy.path={str(folder)!r}: expected finite weights; found NaN or Inf in "
            f"{bad[0] if bad else 'a shard of another process'}. The files are damaged, or come "
            "from a training that diverged: use others."
        )


def _places(folder: Path) -> dict[str, tuple[Path, list[int]]]:
    """Return the file and the shape of each tensor in a folder."""
    from safetensors import safe_open

    places: dict[str, tuple[Path, list[int]]] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            places |= {n: (file, tensors.get_slice(n).get_shape()) for n in tensors.keys()}  # noqa: SIM118
    return places
