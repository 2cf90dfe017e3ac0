"""A new preference model from a pretrained backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gprl_lightning.core.batch import Messages
from gprl_lightning.core.options import EigenvalueScale, L2Scope, Values
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.chat_text import ChatText
from gprl_lightning.models.preference_model import Kind, PreferenceModel


def from_backbone(
    backbone: Any,
    tokenizer: Any,
    *,
    kind: Kind = "gpm",
    num_axes: int = 3,
    gated: bool = True,
    tau: float | None = None,
    eigenvalue_scale: EigenvalueScale | None = None,
    l2_normalize: bool | None = None,
    l2_scope: L2Scope | None = None,
    gate_temperature: float | None = None,
    values: Values | None = None,
    max_tokens: int = 2048,
    batch_size: int = 32,
    examples: Sequence[Messages] = (),
    seed: int = 0,
) -> PreferenceModel:
    """Return a preference model with new heads on ``backbone`` (an ``AutoModel``, as
    ``LlamaForCausalLM.model``).

    With ``examples`` (conversations, a few hundred) the value head of a GPM starts with well-spread
    angles, see `spread_angles`; without, it starts with orthogonal rows. The gate starts even (λ_l
    = 1/k).

    Raises:
        ConfigError: ``num_axes`` < 1, or other than 1 for Bradley-Terry; no chat template.
    """
    if num_axes < 1 or (kind == "bradley_terry" and num_axes != 1):
        expected = "1 for preference_model.kind=bradley_terry" if num_axes > 1 else ">= 1"
        raise ConfigError(f"preference_model.num_axes={num_axes}: expected {expected}.")
    width = backbone.config.hidden_size
    entries = 1 if kind == "bradley_terry" else 2 * num_axes
    value_head = nn.Linear(width, entries, bias=False)
    prompt_head = nn.Linear(width, num_axes, bias=False) if gated and kind == "gpm" else None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if kind == "bradley_terry":
            value_head.weight.normal_(std=1 / (width + 1), generator=generator)
        else:
            nn.init.orthogonal_(value_head.weight, generator=generator)
        if prompt_head is not None:
            prompt_head.weight.zero_()
    model = PreferenceModel(
        backbone,
        value_head,
        prompt_head,
        ChatText(tokenizer, max_tokens, values=values or "conversation"),
        tau=tau,
        eigenvalue_scale="simplex" if eigenvalue_scale is None else eigenvalue_scale,
        l2_normalize=True if l2_normalize is None else l2_normalize,
        l2_scope="all" if l2_scope is None else l2_scope,
        gate_temperature=1.0 if gate_temperature is None else gate_temperature,
        batch_size=batch_size,
    )
    model.to(next(backbone.parameters()).device)
    if examples and kind == "gpm":
        spread_angles(model, examples, seed)
    return model


@torch.no_grad()
def spread_angles(model: PreferenceModel, conversations: Sequence[Messages], seed: int = 0) -> None:
    """Set the value head so that each axis's angles cover the circle on ``conversations``. Ours.

    The states of all texts share a large common part, so rows drawn at random give every response
    almost the same angle on every axis. Here the rows are random directions of the states'
    principal components (whitened; those that hold 99 % of the variance), made blind to the mean
    state: each entry of v has mean 0 and deviation about 1.

    Raises:
        ValueError: fewer conversations than needed to tell 2k directions apart.
    """
    states = _states(model, conversations)
    mean = states.mean(0)
    _, spread, directions = torch.linalg.svd(states - mean, full_matrices=False)
    entries = model.value_head.out_features
    share = spread.square().cumsum(0) / spread.square().sum()
    count = max(int((share < 0.99).sum()) + 1, entries)
    if len(conversations) <= 2 * entries or spread[count - 1] <= 1e-6 * spread[0]:
        raise ValueError(
            f"spread_angles: {len(conversations)} conversations do not span {entries} directions."
        )
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(count, entries, generator=generator)).Q.T.to(states)
    weight = (rotation * (len(states) ** 0.5 / spread[:count])) @ directions[:count]
    unit = mean / mean.norm()
    model.value_head.weight.copy_(weight - (weight @ unit)[:, None] * unit)


def _states(
    model: PreferenceModel, conversations: Sequence[Messages]
) -> Float[Tensor, "rows width"]:
    rows, size = model.text(conversations), model.batch_size
    parts = [
        model.hidden_states(model.text.collate(rows[i : i + size]).to(model.device))[0]
        for i in range(0, len(rows), size)
    ]
    return torch.cat(parts).float()
