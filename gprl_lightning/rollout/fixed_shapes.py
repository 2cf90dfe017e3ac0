"""Decoding in fixed shapes: a step is captured once as a CUDA graph, and replayed. Ours.

Rows lie in a grid of groups × places, one place for each response to a prompt. Buffers keep their
addresses from rollout to rollout. A row that has ended goes on, unread, until a look at the rows
(one wait for the device in `STEPS_BETWEEN_LOOKS` steps) finds that they fit a smaller grid. Without
CUDA the same steps run one operator at a time.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from gprl_lightning.core.precision import compute_dtype
from gprl_lightning.core.transfers import sent
from gprl_lightning.models.causal_lm import flush_left
from gprl_lightning.models.memory_plan import READ_AT_ONCE
from gprl_lightning.rollout.decode_attention import attention_for, plain
from gprl_lightning.rollout.decode_weights import DecodeWeights
from gprl_lightning.rollout.fixed_buffers import Buffers, Shape
from gprl_lightning.rollout.fixed_step import FixedStep
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.rollout.shared_decoding import read_prompts

log = logging.getLogger(__name__)

STEPS_BETWEEN_LOOKS = 8
BLOCK = 64  # prompts and responses are held in whole blocks of tokens
PARTS = 8  # a grid shrinks by eighths of its groups or places

Key = tuple[Shape, Sampling, tuple[int, ...]]  # what a captured step holds for


class Decoded(NamedTuple):
    """The responses; tokens and log-probabilities are noise behind ``lengths``."""

    tokens: Int[Tensor, "rows max_new_tokens"]
    logprobs: Float[Tensor, "rows max_new_tokens"]
    lengths: Int[Tensor, " rows"]
    finished: Bool[Tensor, " rows"]


class FixedShapes:
    """Packed weights, buffers and captured steps of one policy, kept between rollouts.

    Args:
        kernel: let attention be one kernel where it can.
        lender: decodes another network of the same shape, at other times. Its packed weights are
            written over, and nothing is kept.
    """

    def __init__(self, kernel: bool = True, lender: FixedShapes | None = None) -> None:
        self.kernel, self.lender = kernel, lender
        self.model: PreTrainedModel | None = None
        self.weights: DecodeWeights | None = None
        self.buffers: Buffers | None = None
        self.pool: Any = None  # of memory, one for all captured steps: they run one after another
        self.eos: dict[tuple[int, ...], Tensor] = {}  # captured steps hold their addresses
        self.graphs: dict[Key, torch.cuda.CUDAGraph] = {}
        self.captures = torch.cuda.is_available()

    def sample(
        self,
        model: PreTrainedModel,
        ids: Int[Tensor, "groups prompt_tokens"],
        mask: Bool[Tensor, "groups prompt_tokens"],
        keys: Int[Tensor, " rows"],
        sampling: Sampling,
        eos_ids: tuple[int, ...],
    ) -> Decoded:
        """Draw ``group_size`` responses to each prompt.

        Args:
            model: a model of the Llama family, in eval and without autograd.
            ids: left-padded prompts, on the host.
            mask: their real tokens.
            keys: of each row's random numbers.
            sampling: how they are drawn.
            eos_ids: the tokens that end a response.
        """
        weights, device = self._weights(model), keys.device
        lengths = mask.sum(1) - 1
        prompts = flush_left(ids, mask, int(lengths.max()) + 1)
        shape = Shape(
            groups=len(ids),
            places=sampling.group_size,
            prompt=_blocks(prompts.shape[1]),
            held=_blocks(sampling.max_new_tokens + 1),
        )
        if self.buffers is None or not self.buffers.fit(shape):
            # Graphs hold the old buffers' addresses; and a pool is gone with the last graph in it.
            self.buffers, self.graphs, self.pool = Buffers.of(model, weights, shape), {}, None
        self.buffers.start(shape, sent(lengths, device), keys)
        at_once = max(1, READ_AT_ONCE // prompts.shape[1])
        for first in range(0, len(ids), at_once):
            some = slice(first, first + at_once)
            read = read_prompts(model.base_model, prompts[some], lengths[some], device)
            self.buffers.put(first, read)
        if eos_ids not in self.eos:
            self.eos[eos_ids] = torch.tensor(eos_ids, device=device)
        eos = self.eos[eos_ids]
        heads: int = model.config.num_attention_heads
        attention = attention_for(self.buffers.layers[0], heads) if self.kernel else plain
        step = FixedStep(model, weights, self.buffers, shape, sampling, eos, attention)
        with torch.autocast(device.type, enabled=False):
            last = sent(prompts.gather(1, lengths[:, None])[:, 0], device)
            step.feed(last.repeat_interleave(sampling.group_size))
            decoded = self._decode(step, eos_ids)
        if self.lender is not None:
            self._forget()
        return decoded

    def _forget(self) -> None:
        self.model = self.weights = self.buffers = self.pool = None
        self.graphs, self.eos = {}, {}

    def _weights(self, model: PreTrainedModel) -> DecodeWeights:
        dtype = compute_dtype(model.dtype, model.device.type)
        if self.lender is not None:
            room = self.lender.weights
            if room is not None and room.dtype != dtype:
                room = None
            self.weights = DecodeWeights(model, dtype, room)
        elif self.weights is None or self.weights.dtype != dtype or self.model is not model:
            # Some of the weights are the model's own tensors: another's must not be read into them.
            self.model, self.weights, self.buffers = model, DecodeWeights(model, dtype), None
        else:
            self.weights.refresh(model)
        return self.weights

    def _decode(self, step: FixedStep, eos_ids: tuple[int, ...]) -> Decoded:
        buffers, sampling, shape = step.buffers, step.sampling, step.shape
        rows, tokens = shape.rows, sampling.max_new_tokens
        out = Decoded(
            buffers.tokens.new_zeros(rows, tokens),
            buffers.logprobs.new_zeros(rows, tokens),
            buffers.counts.new_zeros(rows),
            buffers.ended.new_zeros(rows),
        )
        for first in range(0, tokens, STEPS_BETWEEN_LOOKS):
            count = min(STEPS_BETWEEN_LOOKS, tokens - first)
            shape = shape._replace(held=_blocks(first + count + 1))
            self._run(replace(step, shape=shape), count, eos_ids)
            smaller = buffers.smaller(shape, PARTS)
            if smaller is None:
                break
            if smaller != shape:
                _write(buffers, shape, out)
                buffers.shrink(shape, smaller)
                shape = smaller
        _write(buffers, shape, out)
        return out

    def _run(self, step: FixedStep, count: int, eos_ids: tuple[int, ...]) -> None:
        """Make ``count`` steps: the first of a new shape as it stands, then captured ones."""
        key = (step.shape, step.sampling, eos_ids)
        if self.captures and key not in self.graphs:
            step()
            count -= 1
            self._capture(key, step)
        replay = self.graphs[key].replay if key in self.graphs else step
        for _ in range(count):
            replay()

    def _capture(self, key: Key, step: FixedStep) -> None:
        """Capture a step, which does not run it. Without a graph, steps run by themselves."""
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                step()
        except RuntimeError as error:
            self.captures = False
            log.warning(
                "A decode step could not be captured as a CUDA graph (%s): steps run one operator "
                "at a time, which is slower. rollout.sampler.fixed_shapes=false takes the plain "
                "path.",
                str(error).splitlines()[0],
            )
        else:
            self.graphs[key] = graph


def _write(buffers: Buffers, shape: Shape, out: Decoded) -> None:
    """Write the rows of ``shape`` to the results that they are."""
    rows, active = slice(shape.rows), buffers.active[: shape.rows]
    width = out.tokens.shape[1]
    out.tokens[active] = buffers.tokens[rows, :width]
    out.logprobs[active] = buffers.logprobs[rows, :width]
    out.lengths[active] = buffers.counts[rows]
    out.finished[active] = buffers.ended[rows]


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK) * BLOCK
