"""The files of a preference model: found, read and checked; each fault has an error by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from gprl_lightning.config.checkpoint_headers import weight_files
from gprl_lightning.models.network_files import CheckpointError, from_hub, one_line

HEADS = ("value_head.weight", "prompt_head.weight", "score.weight")


def model_folder(path_or_name: str | Path) -> Path:
    folder = Path(path_or_name).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(path_or_name)):
        raise CheckpointError(
            f"preference_model.path={str(path_or_name)!r}: there is no such folder, and a hub name "
            "looks like general-preference/GPM-Llama-3.1-8B."
        )
    return from_hub("preference_model.path", str(path_or_name))


def read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(
            f"preference_model.path={str(folder)!r}: a model folder has a config.json."
        )
    with one_line(f"preference_model.path={str(folder)!r}: config.json"):
        config = json.loads(file.read_text(encoding="utf8"))
    if not isinstance(config, dict):
        raise CheckpointError(
            f"preference_model.path={str(folder)!r}: expected an object in config.json; found "
            f"{type(config).__name__}. Replace the file."
        )
    return config


def read_heads(folder: Path) -> dict[str, Tensor]:
    """Return the head tensors by name, from whichever of the model's shards hold them."""
    from safetensors import safe_open

    found: dict[str, Tensor] = {}
    where = f"preference_model.path={str(folder)!r}"
    with one_line(where):
        shards = weight_files(folder)
    for shard in shards:
        with one_line(f"{where}: {shard.name}"), safe_open(shard, framework="pt") as tensors:
            names = set(tensors.keys())
            found.update({name: tensors.get_tensor(name) for name in HEADS if name in names})
    if "value_head.weight" not in found and "score.weight" not in found:
        pickled = sorted(file.name for file in folder.glob("*.bin"))
        hint = f", but {pickled[0]}: convert it with save_pretrained" if pickled else ""
        raise CheckpointError(
            f"preference_model.path={str(folder)!r}: expected a head, value_head.weight (GPM, "
            "Bradley-Terry) or score.weight (sequence classification), in its safetensors files; "
            f"found none in {[shard.name for shard in shards] or 'a folder without any'}{hint}."
        )
    return found


def checked_heads(
    folder: Path, heads: dict[str, Tensor], num_axes: int | None, kind: str | None
) -> tuple[Tensor, Tensor | None]:
    """Return the value and prompt head, or the error that says how they differ from what was
    asked."""
    where = f"preference_model.path={str(folder)!r}"
    value, prompt = heads.get("value_head.weight"), heads.get("prompt_head.weight")
    if value is None:
        value, prompt = heads["score.weight"], None
    width = value.shape[0]
    labels = "score.weight" in heads and "value_head.weight" not in heads and width > 1
    if width != 1 and width % 2 and not labels:
        raise CheckpointError(
            f"{where}: expected a value_head.weight of 2k rows (a GPM of k axes) or 1 "
            f"(Bradley-Terry); found {width} rows. The file is not a preference model's, or was "
            "changed: use another."
        )
    found, axes = ("bradley_terry", 1) if width == 1 else ("gpm", width // 2)
    if labels:
        found, axes = "multi_head", width
    if kind not in (None, found):
        raise CheckpointError(
            f"{where} is a {found} model and preference_model.kind={kind}. "
            f"Set preference_model.kind={found}, or another path."
        )
    if num_axes not in (None, axes):
        raise CheckpointError(
            f"{where} has {axes} axes (its head has {width} rows) and preference_model.num_axes="
            f"{num_axes}. Set preference_model.num_axes={axes}, or another path."
        )
    if prompt is not None and prompt.shape[0] != axes:
        raise CheckpointError(
            f"{where}: prompt_head.weight has {prompt.shape[0]} rows; expected {axes}."
        )
    return value, prompt


def check_width(folder: Path, value: Tensor, backbone: Any) -> None:
    if value.shape[1] != backbone.config.hidden_size:
        raise CheckpointError(
            f"preference_model.path={str(folder)!r}: the head reads {value.shape[1]} entries and "
            f"the backbone has {backbone.config.hidden_size}."
        )
