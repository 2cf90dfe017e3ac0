"""A KV cache that is written in place. Hugging Face's own is copied whole for each new token."""

from __future__ import annotations

from typing import Any, cast

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

ROOM = 64  # tokens of spare room at least, whenever a buffer is made


class BufferedLayer(DynamicLayer):
    """One layer's keys and values, as views of buffers with room to grow.

    Right for sliding-window attention too: it keeps every token, and the mask ends the window.
    """

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self._buffers: list[Tensor] = []

    @property
    def _states(self) -> tuple[Tensor, Tensor]:
        return cast(Tensor, self.keys), cast(Tensor, self.values)

    def update(
        self,
        key_states: Float[Tensor, "rows heads new width"],
        value_states: Float[Tensor, "rows heads new width"],
        *_: Any,
        **__: Any,
    ) -> tuple[Float[Tensor, "rows heads tokens width"], Float[Tensor, "rows heads tokens width"]]:
        """Append the new tokens and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        held = self.get_seq_length()
        end = held + key_states.shape[-2]
        if not self._buffers or end > self._buffers[0].shape[-2]:
            self._buffers = [*map(_with_room, self._states)]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, held:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Give every row ``repeats`` copies, side by side."""
        held = self.get_seq_length()
        self._buffers = [_with_room(states, repeats) for states in self._states]
        self.keys, self.values = (buffer[:, :, :held] for buffer in self._buffers)

    def batch_select_indices(self, indices: Int[Tensor, " kept"]) -> None:
        """Keep these rows, moved to the front of the same buffers."""
        kept = [states[indices] for states in self._states]
        rows, _, held, _ = kept[0].shape
        self._buffers = [buffer[:rows] for buffer in self._buffers] or [*map(_with_room, kept)]
        for buffer, states in zip(self._buffers, kept, strict=True):
            buffer[:, :, :held] = states
        self.keys, self.values = (buffer[:, :, :held] for buffer in self._buffers)


def _with_room(
    states: Float[Tensor, "rows heads tokens width"], repeats: int = 1
) -> Float[Tensor, "repeated heads room width"]:
    rows, heads, tokens, width = states.shape
    room = tokens + max(ROOM, tokens // 4)
    buffer = states.new_empty(rows, repeats, heads, room, width)
    buffer[:, :, :, :tokens] = states[:, None]
    return buffer.flatten(0, 1)


def make_cache(config: PretrainedConfig) -> Cache:
    """Return a buffered cache where every layer is plain or sliding-window attention; else
    Hugging Face's own, which knows the state of recurrent and other layers."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds <= {"full_attention", "sliding_attention"}:
        return Cache(layers=[BufferedLayer() for _ in range(text.num_hidden_layers)])
    return DynamicCache(config=config)
