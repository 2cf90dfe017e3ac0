"""Log-probabilities of sampled tokens from hidden states, without a [tokens, vocab] tensor.

The logits of a few tokens at a time are made, used and dropped, and made again in the backward
pass; kept for it is one number per token. The technique is that of Cut Cross-Entropy (arXiv
2411.09009) and of Liger's fused linear cross-entropy, here in plain PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

# Tokens whose logits are made at a time: on a CPU they should stay in its cache.
CHUNK_SIZES = {"cpu": 128}
ACCELERATOR_CHUNK_SIZE = 1024


def token_logprobs(
    hidden: Float[Tensor, "*batch width"],
    head_weight: Float[Tensor, "vocab width"],
    targets: Int[Tensor, "*batch"],
    temperature: float = 1.0,
    bias: Float[Tensor, " vocab"] | None = None,
    softcap: float | None = None,
    chunk_size: int | None = None,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Log-probability of each target and entropy of ``softmax(logits / temperature)``, in nats.

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

    Returns:
        Log-probabilities, with a gradient (a first one only) to ``hidden``, ``head_weight`` and
        ``bias``; and entropies, without one, for logging.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    head = _Head(
        temperature, softcap, chunk_size or CHUNK_SIZES.get(device, ACCELERATOR_CHUNK_SIZE)
    )
    flat, entropy = cast(
        "tuple[Tensor, Tensor]",
        _TokenLogprobs.apply(  # pyright: ignore[reportUnknownMemberType]
            hidden.flatten(0, -2),
            head_weight.to(hidden.dtype),
            None if bias is None else bias.to(hidden.dtype),
            targets.flatten(),
            head,
        ),
    )
    return flat.view(targets.shape), entropy.view(targets.shape)


@dataclass(frozen=True)
class _Head:
    """The output layer's constants."""

    temperature: float
    softcap: float | None
    chunk_size: int

    def room(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """One chunk's logits: written over and over, as fresh memory costs more than the product
        on a CPU."""
        return hidden.new_empty(min(self.chunk_size, len(hidden)), len(weight))

    def logits(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, room: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Tempered logits of a chunk, and their derivative by the raw ones (None: constant)."""
        room = room[: len(hidden)]
        if bias is None:
            torch.mm(hidden, weight.T, out=room)
        else:
            torch.addmm(bias, hidden, weight.T, out=room)
        raw = room.to(_wide(hidden.dtype))
        if self.softcap is None:
            return raw if self.temperature == 1 else raw.div_(self.temperature), None
        squashed = raw.div_(self.softcap).tanh_()
        slope = (1 - squashed.square()) / self.temperature
        return squashed.mul_(self.softcap / self.temperature), slope


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _TokenLogprobs(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: _Head
    ) -> tuple[Tensor, Tensor]:
        normalizer = hidden.new_empty(len(hidden), dtype=_wide(hidden.dtype))
        logprobs, entropy = torch.empty_like(normalizer), torch.empty_like(normalizer)
        room = head.room(hidden, weight)
        weights = torch.empty_like(room, dtype=normalizer.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), head.chunk_size):
                part = slice(start, start + head.chunk_size)
                logits, _ = head.logits(hidden[part], weight, bias, room)
                peak = logits.amax(-1, keepdim=True)
                chosen = logits.gather(-1, targets[part, None]) - peak
                exponents = logits.sub_(peak)
                exponentials = torch.exp(exponents, out=weights[: len(logits)])
                total = exponentials.sum(-1)
                log_total = total.log()
                normalizer[part] = log_total + peak[:, 0]
                logprobs[part] = chosen[:, 0] - log_total
                entropy[part] = log_total - exponents.mul_(exponentials).sum(-1) / total
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer)
        ctx.head = head
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalizer = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        # Sums over chunks need more digits than the half-precision weights have.
        hidden_grad = torch.empty_like(hidden) if for_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=_wide(weight.dtype)) if for_weight else None
        bias_grad = torch.zeros_like(bias, dtype=_wide(bias.dtype)) if for_bias else None
        head: _Head = ctx.head
        room = head.room(hidden, weight)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), head.chunk_size):
                part = slice(start, start + head.chunk_size)
                logits, slope = head.logits(hidden[part], weight, bias, room)
                outer = grad_outputs[0][part, None]
                if slope is None:
                    outer = outer / head.temperature
                # d log p(target) / d logits = onehot(target) - p
                grad = logits.sub_(normalizer[part, None]).exp_().mul_(-outer)
                grad.scatter_add_(-1, targets[part, None], outer.to(grad))
                if slope is not None:
                    grad.mul_(slope)
                if bias_grad is not None:
                    bias_grad += grad.sum(0)
                grad = grad.to(hidden.dtype)
                if hidden_grad is not None:
                    torch.mm(grad, weight, out=hidden_grad[part])
                if weight_grad is not None and weight_grad.dtype == grad.dtype:
                    weight_grad.addmm_(grad.T, hidden[part])
                elif weight_grad is not None:
                    weight_grad += grad.T @ hidden[part]
        return (
            hidden_grad,
            None if weight_grad is None else weight_grad.to(weight.dtype),
            None if bias_grad is None else bias_grad.to(bias.dtype),
            None,
            None,
        )
