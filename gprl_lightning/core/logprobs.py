"""Log-probabilities of sampled tokens from hidden states, without a [tokens, vocab] tensor.

The logits of a few tokens at a time are made, used and dropped, and made again in the backward
pass; kept for it is one number per token. The technique is that of Cut Cross-Entropy (arXiv
2411.09009). A caller that can tell ahead what the backward pass will bring, as a loss by tokens
can, gets the gradients made on the way forward, from the same logits, as Liger's fused losses do
(arXiv 2410.10989). Both here in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

# Tokens whose logits are made at a time: on a CPU they should stay in its cache.
CHUNK_SIZES = {"cpu": 128}
# Elsewhere they may take this share of the memory: a larger product is a faster one.
CHUNK_SHARE = 1 / 48
LOGIT_BYTES = 10  # of each, in bfloat16 and twice in float32

# From log-probabilities of some flat tokens, and which these are, to the derivatives of the loss.
Slope = Callable[[Float[Tensor, " tokens"], slice], Float[Tensor, " tokens"]]


def token_logprobs(
    hidden: Float[Tensor, "*batch width"],
    head_weight: Float[Tensor, "vocab width"],
    targets: Int[Tensor, "*batch"],
    temperature: float = 1.0,
    bias: Float[Tensor, " vocab"] | None = None,
    softcap: float | None = None,
    chunk_size: int | None = None,
    slope: Slope | None = None,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return log-probability of each target and entropy of ``softmax(logits / temperature)``, in
    nats.

    The logits are ``hidden @ head_weight.T + bias``, in the dtype of ``hidden`` (under autocast, in
    autocast's); the softmax is in float32, or in float64 for float64. Peak memory is some
    ``chunk_size · vocab`` numbers. Leave out positions that are not wanted: ``hidden[mask]``
    costs less.

    Args:
        hidden: last hidden states, at the positions that predict the targets.
        head_weight: the output embedding; needs no gradient itself.
        targets: the sampled tokens, in [0, vocab).
        temperature: of the sampling; the log-probabilities are of the tempered distribution.
        bias: of the output layer.
        softcap: logits become ``softcap · tanh(logits / softcap)`` before the temperature (Gemma
            2).
        chunk_size: tokens at a time; None: what is fastest on the device.
        slope: what the derivative of the loss by each log-probability will be. A hint: where the
            backward pass brings another one, the gradients are made anew; on an accelerator, where
            looking would wait for it, they become NaN.

    Returns:
        Log-probabilities, with a gradient (a first one only) to ``hidden``, ``head_weight`` and
        ``bias``; and entropies, without one, for logging.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    head = _Head(temperature, softcap, chunk_size or _chunk_size(hidden.device, len(head_weight)))
    flat, entropy = cast(
        "tuple[Tensor, Tensor]",
        _TokenLogprobs.apply(  # pyright: ignore[reportUnknownMemberType]
            hidden.flatten(0, -2),
            head_weight.to(hidden.dtype),
            None if bias is None else bias.to(hidden.dtype),
            targets.flatten(),
            head,
            slope if torch.is_grad_enabled() else None,
        ),
    )
    return flat.view(targets.shape), entropy.view(targets.shape)


def accelerator_chunk(vocabulary: int, memory: float) -> int:
    """Return how many tokens' logits an accelerator of ``memory`` bytes makes at a time.

    >>> accelerator_chunk(128_256, 80e9), accelerator_chunk(128_256, 24e9)
    (1024, 256)
    """
    tokens = int(memory * CHUNK_SHARE / (LOGIT_BYTES * vocabulary))
    return min(8192, max(256, 2 ** max(tokens.bit_length() - 1, 0)))


def _chunk_size(device: torch.device, vocabulary: int) -> int:
    if device.type in CHUNK_SIZES:
        return CHUNK_SIZES[device.type]
    cuda = cast(Any, torch.cuda)
    there = device.type == "cuda" and cuda.is_available()
    memory: float = cuda.get_device_properties(device).total_memory if there else 80e9
    return accelerator_chunk(vocabulary, memory)


@dataclass(frozen=True)
class _Head:
    """The output layer's constants."""

    temperature: float
    softcap: float | None
    chunk_size: int

    def room(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """Return one chunk's logits: written over and over, as fresh memory costs more than the
        product on a CPU."""
        return hidden.new_empty(min(self.chunk_size, len(hidden)), len(weight))

    def logits(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, room: Tensor
    ) -> tuple[Tensor, Tensor | float]:
        """Return the tempered logits of a chunk, and their derivative by the raw ones."""
        room = room[: len(hidden)]
        if bias is None:
            torch.mm(hidden, weight.T, out=room)
        else:
            torch.addmm(bias, hidden, weight.T, out=room)
        raw = room.to(_wide(hidden.dtype))
        if self.softcap is None:
            tempered = raw if self.temperature == 1 else raw.div_(self.temperature)
            return tempered, 1 / self.temperature
        squashed = raw.div_(self.softcap).tanh_()
        derivative = (1 - squashed.square()) / self.temperature
        return squashed.mul_(self.softcap / self.temperature), derivative


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _Gradients:
    """Of hidden states, head and bias, from the logits' of one chunk after the other."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: tuple[bool, ...]
    ) -> None:
        for_hidden, for_weight, for_bias = wanted
        self.inputs = hidden, weight
        # Sums over chunks need more digits than the half-precision weights have.
        wide = _wide(weight.dtype)
        self.of_hidden = torch.empty_like(hidden) if for_hidden else None
        self.of_weight = torch.zeros_like(weight, dtype=wide) if for_weight else None
        self.of_bias = torch.zeros_like(bias, dtype=wide) if for_bias and bias is not None else None

    def add(
        self,
        part: slice,
        weights: Tensor,
        total: Tensor | float,
        outer: Tensor,
        targets: Tensor,
        derivative: Tensor | float,
    ) -> None:
        """Write over the weights: ``d log p(target) / d logits = onehot(target) - p``, and p is
        the weight's share of the total."""
        hidden, weight = self.inputs
        if isinstance(derivative, float):
            outer = outer * derivative
        grad = weights.mul_(-outer / total).scatter_add_(-1, targets, outer.to(weights))
        if isinstance(derivative, Tensor):
            grad.mul_(derivative)
        if self.of_bias is not None:
            self.of_bias += grad.sum(0)
        grad = grad.to(hidden.dtype)
        if self.of_hidden is not None:
            torch.mm(grad, weight, out=self.of_hidden[part])
        if self.of_weight is not None and self.of_weight.dtype == grad.dtype:
            self.of_weight.addmm_(grad.T, hidden[part])
        elif self.of_weight is not None:
            self.of_weight += grad.T @ hidden[part]

    def found(self) -> tuple[Tensor | None, ...]:
        """Return it in the dtype of what it belongs to."""
        dtype = self.inputs[1].dtype
        sums = (None if sum is None else sum.to(dtype) for sum in (self.of_weight, self.of_bias))
        return self.of_hidden, *sums


class _TokenLogprobs(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        head: _Head,
        slope: Slope | None,
    ) -> tuple[Tensor, Tensor]:
        normalizer = hidden.new_empty(len(hidden), dtype=_wide(hidden.dtype))
        logprobs, entropy = torch.empty_like(normalizer), torch.empty_like(normalizer)
        room = head.room(hidden, weight)
        weights = torch.empty_like(room, dtype=normalizer.dtype)
        wanted = ctx.needs_input_grad[:3]
        gradients = _Gradients(hidden, weight, bias, wanted) if slope and any(wanted) else None
        slopes = torch.empty_like(normalizer if gradients else normalizer[:0])
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), head.chunk_size):
                part = slice(start, start + head.chunk_size)
                logits, derivative = head.logits(hidden[part], weight, bias, room)
                peak = logits.amax(-1, keepdim=True)
                chosen = logits.gather(-1, targets[part, None]) - peak
                exponents = logits.sub_(peak)
                exponentials = torch.exp(exponents, out=weights[: len(logits)])
                total = exponentials.sum(-1)
                log_total = total.log()
                normalizer[part] = log_total + peak[:, 0]
                logprobs[part] = chosen[:, 0] - log_total
                entropy[part] = log_total - exponents.mul_(exponentials).sum(-1) / total
                if slope and gradients:
                    slopes[part] = slope(logprobs[part], part)
                    gradients.add(
                        part,
                        exponentials,
                        total[:, None],
                        slopes[part, None],
                        targets[part, None],
                        derivative,
                    )
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer)
        ctx.head, ctx.slopes = head, slopes
        ctx.ahead = gradients.found() if gradients else None
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        outer = grad_outputs[0]
        ahead, ctx.ahead = ctx.ahead, None  # handed over, so that nobody needs a copy
        if ahead is not None:
            alike = _alike(ctx.slopes, outer)
            if outer.device.type != "cpu":
                return *_unless(alike, ahead), None, None, None
            if alike:
                return *ahead, None, None, None
        hidden, weight, bias, targets, normalizer = ctx.saved_tensors
        gradients = _Gradients(hidden, weight, bias, ctx.needs_input_grad[:3])
        head: _Head = ctx.head
        room = head.room(hidden, weight)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), head.chunk_size):
                part = slice(start, start + head.chunk_size)
                logits, derivative = head.logits(hidden[part], weight, bias, room)
                probabilities = logits.sub_(normalizer[part, None]).exp_()
                gradients.add(
                    part, probabilities, 1.0, outer[part, None], targets[part, None], derivative
                )
        return *gradients.found(), None, None, None


def _alike(expected: Tensor, found: Tensor) -> Tensor:
    """Whether the slopes are those that were told ahead, but for rounding."""
    tolerance = 16 * torch.finfo(found.dtype).eps * found.abs().amax() if len(found) else 0.0
    return ((expected - found).abs() <= tolerance).all()


def _unless(alike: Tensor, ahead: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Gradients that were made ahead; NaN in one of them where the slopes were others. An
    accelerator would be waited for, to choose."""
    first = next(i for i, gradient in enumerate(ahead) if gradient is not None)
    known = torch.where(alike, 1.0, torch.nan)
    return tuple(g * known.to(g) if i == first and g is not None else g
                 for i, g in enumerate(ahead))  # fmt: skip
