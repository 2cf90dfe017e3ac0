"""Preference models on disk: the layout of the published ``general-preference/GPM-*`` models.

A folder with the backbone as ``AutoModel`` reads it, ``value_head.weight`` [2k or 1, hidden] and,
where gated, ``prompt_head.weight`` [k, hidden] in the safetensors shards. What that layout lacks
(τ, L2, the eigenvalues' scale, …) is kept under ``preference_model`` in config.json, and defaulted
where absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gprl_lightning.core.options import EigenvalueScale, L2Scope, Values
from gprl_lightning.models.chat_text import ChatText
from gprl_lightning.models.deferred import Waiting, deferred_network, sources_are_waiting
from gprl_lightning.models.multi_head import MultiHead, label_names
from gprl_lightning.models.network_files import CheckpointError, load_network, require_finite
from gprl_lightning.models.preference_files import (
    check_width,
    checked_heads,
    model_folder,
    read_config,
    read_heads,
)
from gprl_lightning.models.preference_model import Kind, PreferenceModel, as_numbers
from gprl_lightning.models.preference_settings import SETTINGS, checked_settings
from gprl_lightning.models.tokenizer_files import load_tokenizer


def load_preference_model(
    path_or_name: str | Path,
    *,
    num_axes: int | None = None,
    kind: Kind | None = None,
    tau: float | None = None,
    eigenvalue_scale: EigenvalueScale | None = None,
    l2_normalize: bool | None = None,
    l2_scope: L2Scope | None = None,
    gate_temperature: float | None = None,
    values: Values | None = None,
    dtype: str = "float32",
    max_tokens: int | None = None,
    batch_size: int = 32,
    attention: str | None = None,
    chat_template: str | None = None,
) -> PreferenceModel:
    """Return a GPM, a Bradley-Terry model, or a sequence classifier (of one label as Bradley-Terry,
    of k as `MultiHead`); in eval mode, on the CPU.

    Args:
        path_or_name: a folder, or the name of a model on the Hugging Face hub.
        num_axes: if given, the k that the checkpoint must have.
        kind: if given, ``gpm``, ``bradley_terry`` or ``multi_head``, which the checkpoint must be.
        tau: None: the checkpoint's, else 0.1 for a GPM and 1 for Bradley-Terry.
        eigenvalue_scale: None: the checkpoint's, else ``simplex``.
        l2_normalize: None: the checkpoint's, else True.
        l2_scope: None: the checkpoint's, else ``all``.
        gate_temperature: None: the checkpoint's, else 1.
        values: None: the checkpoint's, else ``conversation``.
        dtype: of the weights, as ``float32`` or ``bfloat16``. Scores are float32.
        max_tokens: longer conversations are cut on the right; None: the checkpoint's, else 2048.
        batch_size: responses per forward.
        attention: transformers' ``attn_implementation``.
        chat_template: a Jinja file, for a tokenizer without a template.

    Raises:
        CheckpointError: no such folder, no head, an odd head width, or not the k or kind expected.
    """
    folder = model_folder(path_or_name)
    settings = checked_settings(folder, read_config(folder))
    heads = read_heads(folder)
    value, prompt = checked_heads(folder, heads, num_axes, kind)
    require_finite(f"preference_model.path={str(folder)!r}", heads.items())
    backbone, waiting = _backbone(folder, getattr(torch, dtype), attention)
    check_width(folder, value, backbone)
    text_format = "chat" if "score.weight" in heads else "gpm"
    text = ChatText(
        load_tokenizer("preference_model.path", folder, chat_template),
        _first(max_tokens, settings.get("max_tokens"), 2048),
        settings.get("text_format", text_format),
        _first(values, settings.get("values"), "conversation"),
    )
    if "value_head.weight" not in heads and len(value) > 1:
        names = label_names(read_config(folder), len(value))
        head = _head(value, backbone.dtype)
        scale = 1.0 if tau is None else tau
        labels = MultiHead(backbone, head, text, names, tau=scale, batch_size=batch_size)
        labels.weights_from = waiting and waiting.inside(labels, backbone)
        return labels.eval()
    model = PreferenceModel(
        backbone,
        _head(value, backbone.dtype),
        None if prompt is None else _head(prompt, backbone.dtype),
        text,
        tau=_first(tau, settings.get("tau"), None),
        eigenvalue_scale=_first(eigenvalue_scale, settings.get("eigenvalue_scale"), "simplex"),
        l2_normalize=_first(l2_normalize, settings.get("l2_normalize"), True),
        l2_scope=_first(l2_scope, settings.get("l2_scope"), "all"),
        gate_temperature=_first(gate_temperature, settings.get("gate_temperature"), 1.0),
        batch_size=batch_size,
    )
    model.weights_from = waiting and waiting.inside(model, backbone)
    model.attributes = tuple(settings.get("attributes") or ())
    model.rotation = _rotation(folder, settings.get("rotation"), model.num_axes)
    return model.eval()


def save_preference_model(
    model: PreferenceModel,
    folder: str | Path,
    *,
    base_model: str | None = None,
    data_fingerprint: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write ``model`` in the published layout, sharded at 5 GB; `load_preference_model` reads it
    back.

    Args:
        base_model: what the backbone was before training.
        data_fingerprint: which pairs it was trained on, see `data.preferences.fingerprint`.
        metadata: more of the same, kept as it is under ``preference_model`` in config.json.
    """
    from huggingface_hub import save_torch_state_dict

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    prefix = model.backbone.base_model_prefix
    state = {f"{prefix}.{name}": value for name, value in model.backbone.state_dict().items()}
    state["value_head.weight"] = model.value_head.weight.detach()
    if model.prompt_head is not None:
        state["prompt_head.weight"] = model.prompt_head.weight.detach()
    save_torch_state_dict(state, folder)
    model.backbone.config.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    config = read_config(folder)
    config["architectures"] = ["CustomRewardModel"]
    config[SETTINGS] = {
        **(metadata or {}),
        "kind": model.kind,
        "num_axes": model.num_axes,
        "gated": model.prompt_head is not None,
        "tau": model.tau,
        "eigenvalue_scale": model.eigenvalue_scale,
        "l2_normalize": model.l2_normalize,
        "l2_scope": model.l2_scope,
        "gate_temperature": model.gate_temperature,
        "max_tokens": model.text.max_tokens,
        "text_format": model.text.text_format,
        "values": model.text.values,
        "rotation": as_numbers(model.rotation),
        "attributes": list(model.attributes),
        "base_model": base_model,
        "data_fingerprint": data_fingerprint,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")


def _rotation(folder: Path, numbers: Any, axes: int) -> Tensor | None:
    if numbers is None:
        return None
    rotation = torch.view_as_complex(torch.tensor(numbers, dtype=torch.float64))
    if len(rotation) != axes:
        raise CheckpointError(
            f"preference_model.path={str(folder)!r}: expected a {SETTINGS}.rotation of {axes} axes "
            f"in config.json; found one of {len(rotation)}. Correct or delete it."
        )
    return rotation


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _backbone(
    folder: Path, dtype: torch.dtype, attention: str | None
) -> tuple[Any, Waiting | None]:
    """The backbone, and where its weights are if they are left there until it is sharded."""
    from transformers import AutoModel

    key = "preference_model.path"
    if sources_are_waiting():
        found = deferred_network(AutoModel, key, folder, dtype, attention)
        if found is not None:
            return found
    options = {"dtype": dtype, "attn_implementation": attention}
    return load_network(AutoModel, key, folder, **options), None


def _head(weight: Tensor, dtype: torch.dtype) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype)
    head.weight = nn.Parameter(weight.to(dtype))
    return head
