"""Networks from disk or hub: every weight is there, belongs to the network, and is finite. Ours.

One way in for policies, preference models and backbones. transformers fills what is missing with
fresh random numbers, leaves out what the configuration has no place for, and checks no value; a
run on such weights trains to nothing and says so nowhere.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gprl_lightning.errors import ConfigError
from gprl_lightning.models.alignment import align_weights

LONGEST_REASON = 300  # characters of another library's message


class CheckpointError(ConfigError):
    """A folder that is not a model, or not the one that the configuration describes."""


def load_network(
    auto: Any, key: str, path: str | Path, *, truncated: bool = False, **options: Any
) -> Any:
    """Return the network of an ``AutoModel…`` class, checked, on the CPU.

    Args:
        auto: the class that reads it, such as ``AutoModelForCausalLM``.
        key: the configuration key of the path, for messages.
        path: a folder or a hub name.
        truncated: layers beyond those of the configuration are left out on purpose.
        options: of ``from_pretrained``.

    Raises:
        CheckpointError: it cannot be read; a tensor is missing, has another shape, belongs to a
            layer that the configuration does not have, or is not finite.
    """
    where = f"{key}={str(path)!r}"
    _require_generation_config(where, Path(path))
    with quiet_loading(), one_line(where):
        network, report = auto.from_pretrained(
            path, output_loading_info=True, trust_remote_code=False, **options
        )
    layers = getattr(network.config.get_text_config(), "num_hidden_layers", 1)
    if layers < 1:  # its files' layers are then of no kind that it knows
        raise CheckpointError(
            f"{where}: expected layers; found num_hidden_layers={layers} in config.json. "
            "Use the config.json that belongs to the weights."
        )
    if missing := report["missing_keys"]:
        raise CheckpointError(
            f"{where}: expected every tensor of {type(network).__name__}; the files lack "
            f"{len(missing)} tensors, as {min(missing)}. Use complete weight files, and the "
            "config.json that belongs to them."
        )
    left_out = [] if truncated else of_known_kind(report["unexpected_keys"], network)
    if left_out:
        raise CheckpointError(
            f"{where}: expected a network for every tensor in its files; config.json leaves out "
            f"{len(left_out)}, as {min(left_out)}. Use the config.json that belongs to the weights."
        )
    require_finite(where, [*network.named_parameters(), *network.named_buffers()])
    align_weights(network)
    return network


def from_hub(key: str, name: str) -> Path:
    """Return the folder with a model's files, downloaded where they have not been before.

    Raises:
        CheckpointError: the hub does not give that model; ``key`` names what asked for it.
    """
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        raise CheckpointError(
            f"{key}={name!r}: neither a folder nor a model that the hub gives "
            f"({type(error).__name__}: {error})."
        ) from error


def _require_generation_config(where: str, folder: Path) -> None:
    """transformers passes over a damaged one, and with it over the tokens that end an answer."""
    file = folder / "generation_config.json"
    if file.is_file():
        with one_line(f"{where}: generation_config.json"):
            if not isinstance(json.loads(file.read_text(encoding="utf8")), dict):
                raise ValueError("expected an object")


def require_finite(where: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Check every value, at the speed of memory: a sum is finite only if all its terms are.

    Raises:
        CheckpointError: a tensor holds NaN or Inf.
    """
    bad = [name for name, tensor in tensors if not _finite(tensor)]
    if bad:
        raise CheckpointError(
            f"{where}: expected finite weights; found NaN or Inf in {len(bad)} tensors, as "
            f"{bad[0]}. The files are damaged, or come from a training that diverged: use others."
        )


@torch.no_grad()
def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    # A sum may overflow where no term does.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def of_known_kind(names: Iterable[str], network: Any) -> list[str]:
    """Return the names that are those of the network's own tensors but for their numbers: its
    layers'."""
    prefix = f"{network.base_model_prefix}."

    def kind(name: str) -> str:
        return re.sub(r"\d+", "*", name.removeprefix(prefix))

    own = {kind(name) for name, _ in network.named_parameters(remove_duplicate=False)}
    return [name for name in names if kind(name) in own]


@contextlib.contextmanager
def one_line(where: str) -> Iterator[None]:
    """Turn whatever another library raises about files into one `CheckpointError`."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # safetensors, tokenizers, JSON, transformers: each has its own
        found = " ".join(str(error).split()) or "no more"
        if len(found) > LONGEST_REASON:
            found = found[:LONGEST_REASON] + " …"
        raise CheckpointError(
            f"{where}: cannot be loaded: {type(error).__name__}: {found}. Expected a folder as "
            "save_pretrained writes it, or a hub name; replace the file that is named."
        ) from error


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence the report of keys that a checkpoint has and the network does not."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
