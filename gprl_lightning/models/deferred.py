"""Networks that are built without weights and read theirs shard by shard: no process holds a whole
one. Ours, around PyTorch's reader of safetensors.

One road for policies, with adapters or without, and for preference models, of every architecture
whose files name their tensors as the network does. What a checkpoint that differs is refused for is
said by the ordinary way in, `models.network_files`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from gprl_lightning.config.checkpoint_headers import weight_files
from gprl_lightning.models.network_files import CheckpointError, of_known_kind, one_line
from gprl_lightning.models.shared_prompt import SDPA
from gprl_lightning.runtime.processes import max_over_processes
from gprl_lightning.runtime.sharding import local

log = logging.getLogger(__name__)

_SOURCES_WAIT = ContextVar("sources wait", default=False)


@dataclass(frozen=True)
class Waiting:
    """Where the weights lie of a network that has none yet.

    Attributes:
        where: the configuration key and the folder, for messages.
        folder: of the files.
        places: of each parameter, by its name in the network, the file and its name there.
        prefix: of the network's names in what holds it, a policy or a preference model.
        checks: what can only be checked with weights, and is once they are there.
    """

    where: str
    folder: Path
    places: dict[str, tuple[Path, str]]
    prefix: str = ""
    checks: list[Callable[[], None]] = field(default_factory=list)

    def inside(self, root: nn.Module, network: nn.Module) -> Waiting:
        """Return the same for ``root``, which holds the network."""
        prefix = next(name for name, module in root.named_modules() if module is network)
        return replace(self, prefix=f"{prefix}.")

    def place(self, name: str) -> tuple[Path, str]:
        """Return the file of a parameter of ``root``, and its name there."""
        # An adapter puts the layer that it adapts one level down.
        return self.places[name.removeprefix(self.prefix).replace(".base_layer.", ".")]


@contextmanager
def sources_wait(wait: bool) -> Iterator[None]:
    """Have preference models that are loaded inside, by whatever source, wait for their weights."""
    token = _SOURCES_WAIT.set(wait)
    try:
        yield
    finally:
        _SOURCES_WAIT.reset(token)


def sources_are_waiting() -> bool:
    """Return True inside `sources_wait`."""
    return _SOURCES_WAIT.get()


def deferred_network(
    auto: Any, key: str, folder: Path, dtype: torch.dtype, attention: str | None
) -> tuple[Any, Waiting] | None:
    """Return the network of a folder without its weights, on the meta device, and where they lie;
    None if it has to be loaded whole, which a line of the log then says.

    Args:
        auto: the class that reads it, such as ``AutoModelForCausalLM``.
        key: the configuration key of the path, for messages.
        folder: as ``save_pretrained`` writes it.
        dtype: of the weights.
        attention: transformers' ``attn_implementation``.
    """
    where = f"{key}={str(folder)!r}"
    reason = ""
    if attention not in (None, SDPA):
        reason = f"its attention is {attention}"
    if not reason:
        with one_line(where):
            model = _without_weights(auto, folder, dtype, attention)
            places = _places(folder, model)
        if places is not None:
            _set_generation(where, folder, model)
            return model.eval(), Waiting(where, folder, places)
        reason = "its files name their tensors otherwise than the network does"
    log.warning("%s is read whole by each process, and then sharded: %s.", where, reason)
    return None


def _without_weights(auto: Any, folder: Path, dtype: torch.dtype, attention: str | None) -> Any:
    """Its buffers are real: they are computed, and in no file."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:  # tied ones must stay one
            param = nn.Parameter(param.to("meta"), param.requires_grad)
        register(self, name, param)

    nn.Module.register_parameter = on_meta
    try:
        with torch.random.fork_rng(devices=[]):
            return auto.from_config(config, dtype=dtype, attn_implementation=attention)
    finally:
        nn.Module.register_parameter = register


def _places(folder: Path, model: PreTrainedModel) -> dict[str, tuple[Path, str]] | None:
    """Return the file of each parameter, and its name there; None where the files do not fit."""
    from safetensors import safe_open

    stored: dict[str, tuple[Path, list[int]]] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            stored |= {n: (file, tensors.get_slice(n).get_shape()) for n in tensors.keys()}  # noqa: SIM118
    prefix = f"{model.base_model_prefix}."  # files of a head's network have it, those of a base not
    own = dict(model.named_parameters())
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    places: dict[str, tuple[Path, str]] = {}
    for name, parameter in own.items():
        for there in (name, prefix + name, name.removeprefix(prefix)):
            if there in stored and stored[there][1] == list(parameter.shape):
                places[name] = stored[there][0], there
                break
    read = {there for _, there in places.values()}
    left_out = of_known_kind(stored.keys() - read - (names - own.keys()), model)
    kept_apart = model.state_dict().keys() - names  # buffers that files hold
    return None if len(places) < len(own) or left_out or kept_apart else places


def _set_generation(where: str, folder: Path, model: Any) -> None:
    generation = folder / "generation_config.json"
    if generation.is_file() and model.can_generate():
        with one_line(f"{where}: generation_config.json"):
            values = json.loads(generation.read_text(encoding="utf8"))
            model.generation_config = GenerationConfig.from_dict(values)


def adapted(model: nn.Module, add: Callable[[Any], nn.Module]) -> nn.Module:
    """Return ``add(model)`` of a network without weights: its adapters have theirs, by the random
    numbers that they would be of beside real ones."""
    # peft puts an adapter where the weight is: stand-ins of one number each are on the CPU.
    _replace_parameters(model, lambda p: torch.empty(1, dtype=p.dtype).expand(p.shape))
    network = add(model)
    _replace_parameters(
        network,
        lambda p: p.data if p.requires_grad else torch.empty(p.shape, dtype=p.dtype, device="meta"),
    )
    return network


def _replace_parameters(network: nn.Module, make: Callable[[nn.Parameter], Tensor]) -> None:
    made: dict[nn.Parameter, nn.Parameter] = {}  # tied ones stay one
    for module in network.modules():
        for name, old in [*module.named_parameters(recurse=False, remove_duplicate=False)]:
            if old not in made:
                made[old] = nn.Parameter(make(old), old.requires_grad)
            setattr(module, name, made[old])


def when_filled(roots: list[Any], check: Callable[[], None]) -> None:
    """Make a check that runs networks: now, or once the last of them has its weights."""
    waiting = [root.weights_from for root in roots if root.weights_from is not None]
    if waiting:
        waiting[-1].checks.append(check)
    else:
        check()


def weights_of(root: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield weights by name; from their files, one by one, while they are not read.

    Args:
        root: a policy or a preference model.
    """
    from safetensors import safe_open

    for name, parameter in root.named_parameters():
        if not parameter.is_meta:
            yield name, parameter
            continue
        file, stored = root.weights_from.place(name)
        with safe_open(file, framework="pt") as tensors:
            yield name, tensors.get_tensor(stored).to(parameter.dtype)


def read_shards(root: Any, device: torch.device) -> None:
    """Read this process's shards of a sharded policy or preference model that has no weights yet,
    all processes together.

    Raises:
        CheckpointError: a weight is not finite.
    """
    from torch.distributed import checkpoint

    dcp: Any = checkpoint
    waiting, root.weights_from = root.weights_from, None
    missing = [name for name, p in root.named_parameters() if p.device.type == "meta"]
    root._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t.to(device))
    own = dict(root.named_parameters())
    state = {waiting.place(name)[1]: own[name].detach() for name in missing}
    dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(str(waiting.folder)))
    bad = [name for name, value in state.items() if not local(value).isfinite().all()]
    if float(max_over_processes(torch.tensor(float(len(bad))))) > 0:
        raise CheckpointError(
            f"{waiting.where}: expected finite weights; found NaN or Inf in "
            f"{bad[0] if bad else 'a shard of another process'}. The files are damaged, or come "
            "from a training that diverged: use others."
        )
    for check in waiting.checks:
        check()
