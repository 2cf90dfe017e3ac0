"""The forward pass over several responses to a prompt that reads the prompt once. Ours.

All tokens but a prompt's last are run once for each different prompt, however many rows have it.
The last token goes before each of its responses: then every token of these *suffixes* predicts one
token of the response, and the last layer computes nothing else. Tokens lie flat, without padding,
in everything but attention. Gradients flow through the shared keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from transformers import PreTrainedModel

from gprl_lightning.core.host_tokens import HostTokens, places_of
from gprl_lightning.core.transfers import sent, sent_together
from gprl_lightning.models.causal_lm import flush_left, tried_on
from gprl_lightning.models.decoder import (
    Heads,
    checkpointed,
    is_known,
    log,
    norm,
    rotary,
    scaled_attention,
)
from gprl_lightning.models.packed_attention import Bounds, Packed, packed_attention

SDPA = "sdpa"  # of transformers' names, the attention of `scaled_attention`


def shared_prompt_states(
    model: PreTrainedModel, known: HostTokens, response_ids: Int[Tensor, "rows tokens"]
) -> Float[Tensor, "n width"]:
    """Return the last hidden states that predict the response tokens, row by row.

    Args:
        model: one for which `shares_prompts` is true.
        known: prompts, equal ones of which are run once, and lengths; no prompt is empty, and one
            response at least is not.
        response_ids: right-padded responses.
    """
    mask = known.prompt_mask
    lengths = mask.sum(1, keepdim=True)
    # With the length in front: a prompt that ends in zeros is not one without them.
    rows = torch.cat([lengths, flush_left(known.prompt_ids, mask, int(lengths.max()))], 1)
    prompts, which = rows.unique(dim=0, return_inverse=True)
    lengths, prompts = prompts[:, 0] - 1, prompts[:, 1:]
    before = sent(prompts.gather(1, lengths[:, None])[which], response_ids.device)
    return prefix_states(
        model.base_model,
        prompts[:, :-1],
        lengths,
        which,
        torch.cat([before, response_ids[:, :-1]], 1),
        known.lengths,
    )


def prefix_states(
    backbone: Any,
    prefixes: Int[Tensor, "groups prefix_tokens"],
    prefix_lengths: Int[Tensor, " groups"],
    which: Int[Tensor, " rows"],
    suffixes: Int[Tensor, "rows tokens"],
    suffix_lengths: Int[Tensor, " rows"],
) -> Float[Tensor, "n width"]:
    """Return the last hidden states of all suffix tokens, row by row, each row read behind its
    prefix.

    All but the suffixes lies on the host, so that the layout of the tokens waits for nothing.

    Args:
        backbone: of a model for which `is_known` is true.
        prefixes: right-padded; a length may be 0.
        prefix_lengths: their real tokens.
        which: the row's prefix.
        suffixes: on the device; right-padded; a length may be 0, but not all are.
        suffix_lengths: their real tokens.
    """
    layout = _Layout.of(prefixes, prefix_lengths, which, suffix_lengths, suffixes.device)
    ids = torch.cat([layout.prefix_tokens, layout.suffix_tokens(suffixes)])
    hidden = backbone.embed_tokens(ids)
    angles = rotary(backbone, hidden, layout.positions)
    last = len(backbone.layers) - 1
    for index, layer in enumerate(backbone.layers):
        wanted = len(layout.prefix_places) if index == last else 0
        hidden = checkpointed(layer, hidden, angles, layout.attend, wanted)
    return norm(backbone.norm, hidden)


@dataclass(frozen=True)
class _Layout:
    """Where the flat tokens (all prefixes, then all suffixes) stand in rectangles for attention.

    Attributes:
        groups, prefix_width, rows, suffix_width: of the rectangles.
        prefix_tokens: all prefixes' tokens.
        prefix_places, suffix_places: each flat token's place in its rectangle.
        positions: of all flat tokens.
        which: the row's prefix.
        held: the prefix's tokens, of each row.
        prefix_lengths, row_prefixes, suffix_lengths: on the host.
    """

    groups: int
    prefix_width: int
    rows: int
    suffix_width: int
    prefix_tokens: Int[Tensor, " prefix_n"]
    prefix_places: Int[Tensor, " prefix_n"]
    suffix_places: Int[Tensor, " suffix_n"]
    positions: Int[Tensor, " n"]
    which: Int[Tensor, " rows"]
    held: Int[Tensor, " rows"]
    prefix_lengths: Int[Tensor, " groups"]
    row_prefixes: Int[Tensor, " rows"]
    suffix_lengths: Int[Tensor, " rows"]

    @staticmethod
    def of(
        prefixes: Int[Tensor, "groups prefix_tokens"],
        prefix_lengths: Int[Tensor, " groups"],
        which: Int[Tensor, " rows"],
        suffix_lengths: Int[Tensor, " rows"],
        device: torch.device,
    ) -> _Layout:
        """All but the device is the host's."""
        groups, prefix_width = prefixes.shape
        row_prefixes = which
        rows, suffix_width = len(which), int(suffix_lengths.max())
        group, prefix_positions = places_of(prefix_lengths)
        row, suffix_positions = places_of(suffix_lengths)
        prefix_tokens, prefix_places, suffix_places, positions, which, lengths = sent_together(
            [
                prefixes[group, prefix_positions],
                group * prefix_width + prefix_positions,
                row * suffix_width + suffix_positions,
                torch.cat([prefix_positions, suffix_positions + prefix_lengths[which][row]]),
                which,
                prefix_lengths[which],
            ],
            device,
        )
        return _Layout(
            groups,
            prefix_width,
            rows,
            suffix_width,
            prefix_tokens,
            prefix_places,
            suffix_places,
            positions,
            which,
            lengths,
            prefix_lengths,
            row_prefixes,
            suffix_lengths,
        )

    @cached_property
    def mask(self) -> Bool[Tensor, "rows 1 suffix_width held"]:
        """What suffix tokens may see, in rectangles: their prefix, then the suffix so far."""
        rows, suffix_width, prefix_width = self.rows, self.suffix_width, self.prefix_width
        columns = torch.arange(max(prefix_width, suffix_width), device=self.held.device)
        causal = columns[:suffix_width] <= columns[:suffix_width, None]
        seen = columns[:prefix_width] < self.held[:, None, None]
        parts = [
            seen.expand(rows, suffix_width, prefix_width),
            causal.expand(rows, suffix_width, suffix_width),
        ]
        return torch.cat(parts, 2)[:, None]

    @cached_property
    def bounds(self) -> tuple[Bounds, Bounds]:
        """Of the prefixes, and of the rows' suffixes behind their prefixes."""
        device, prefixes = self.held.device, self.prefix_lengths
        keys = prefixes[self.row_prefixes] + self.suffix_lengths
        own = Bounds.of(prefixes, prefixes, device)
        return own, Bounds.of(self.suffix_lengths, keys, device)

    @cached_property
    def seen_by_rows(self) -> Int[Tensor, " keys"]:
        """Which flat tokens each row sees: its prefix's, then its own."""
        prefixes, suffixes, which = self.prefix_lengths, self.suffix_lengths, self.row_prefixes
        row, place = places_of(prefixes[which] + suffixes)
        first = (prefixes.cumsum(0) - prefixes)[which]
        own = prefixes.sum() + suffixes.cumsum(0) - suffixes - prefixes[which]
        tokens = place + torch.where(place < prefixes[which][row], first[row], own[row])
        return sent(tokens, self.held.device)

    def suffix_tokens(self, suffixes: Int[Tensor, "rows tokens"]) -> Int[Tensor, " suffix_n"]:
        return suffixes[:, : self.suffix_width].flatten()[self.suffix_places]

    def attend(self, queries: Heads, keys: Heads, values: Heads) -> Heads:
        """Let prefix tokens see their prefix, suffix tokens their prefix and suffix.

        Without queries of the prefix tokens, as in the last layer, only suffix tokens are answered.
        """
        packed = packed_attention(values, queries.shape[1])
        if packed is not None and self.suffix_width > 1:  # else it takes rows for heads
            # In the projection's own dtype: rotary angles may have widened the others.
            return self._packed(packed, queries.to(values.dtype), keys.to(values.dtype), values)
        count = len(self.prefix_places)
        prefix = self._rectangle(keys[:count]), self._rectangle(values[:count])
        suffix = self._rows(keys[count:]), self._rows(values[count:])
        held = [torch.cat([p[self.which], s], 1) for p, s in zip(prefix, suffix, strict=True)]
        suffix_queries = self._rows(queries[-len(self.suffix_places) :])
        out = scaled_attention(suffix_queries, held[0], held[1], self.mask)
        out = _Unpad.apply(out, self.suffix_places)
        if len(queries) == len(self.suffix_places):
            return out
        before = scaled_attention(self._rectangle(queries[:count]), *prefix, None)
        return torch.cat([_Unpad.apply(before, self.prefix_places), out])

    def _packed(self, attention: Packed, queries: Heads, keys: Heads, values: Heads) -> Heads:
        prefixes, rows = self.bounds
        count = len(self.prefix_places)
        seen = self.seen_by_rows
        # By indexing, whose backward pass adds up in float32, and in one order.
        out = attention(queries[-len(self.suffix_places) :], keys[seen], values[seen], rows)
        if len(queries) == len(self.suffix_places) or not count:
            return out
        before = attention(queries[:count], keys[:count], values[:count], prefixes)
        return torch.cat([before, out])

    def _rectangle(self, flat: Heads) -> Float[Tensor, "groups prefix_width heads width"]:
        return padded(flat, self.prefix_places, self.groups, self.prefix_width)

    def _rows(self, flat: Heads) -> Float[Tensor, "rows suffix_width heads width"]:
        return padded(flat, self.suffix_places, self.rows, self.suffix_width)


def padded(
    flat: Heads, places: Int[Tensor, " n"], rows: int, width: int
) -> Float[Tensor, "rows width heads head_width"]:
    """Put flat tokens at their places of a rectangle, and zeros elsewhere."""
    zeros = flat.new_zeros(rows * width, *flat.shape[1:])
    return zeros.index_copy(0, places, flat).unflatten(0, (rows, width))


class _Unpad(Function):
    """The rectangle's real tokens, flat. No place comes twice, so that backward need not add up:
    torch's own does so, token by token, on a CPU."""

    @staticmethod
    def forward(ctx: Any, rectangle: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = rectangle.shape
        return rectangle.flatten(0, 1).index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        (places,) = ctx.saved_tensors
        return padded(grad, places, *ctx.shape[:2]), None


@torch.no_grad()
def shares_prompts(model: PreTrainedModel) -> bool:
    """Return True if `shared_prompt_states` computes what the model itself does.

    Decided by the architecture and the attention asked for, and then by trying it on a few tokens:
    a model's code may differ from its family's. Says so where it does not.
    """
    reason = "an architecture that it does not know" if not is_known(model) else ""
    asked: str = model.config._attn_implementation or SDPA
    if not reason and asked != SDPA:
        reason = f"policy.attention={asked} asked for, and its own is {SDPA}"
    if not reason and not _agrees(tried_on(model)):
        reason = "layers that compute something else than their family's"
    if reason:
        log.warning(
            "%s takes the plain path, slower and equal: the shared-prompt one finds %s.",
            type(model).__name__,
            reason,
        )
    return not reason


def _agrees(model: PreTrainedModel) -> bool:
    training = model.training
    model.eval()
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr]
    ids = torch.arange(10, device=model.device)[None] * 7 % int(vocabulary)
    ids = torch.cat([ids, ids.flip(1)])
    ids[:, :5] = ids[:1, :5]  # a prompt of five tokens, and two responses of five to it
    real = torch.ones_like(ids, dtype=torch.bool)[:, :5]
    known = HostTokens.of(ids[:, :5], real, real)
    ours = shared_prompt_states(model, known, ids[:, 5:]).float()
    expected = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    model.train(training)
    expected = expected[:, 4:-1].flatten(0, 1).float()
    limit = torch.finfo(model.dtype).eps ** 0.5
    return bool((ours - expected).norm() <= limit * expected.norm())
