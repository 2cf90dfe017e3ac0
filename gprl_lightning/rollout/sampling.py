"""From logits and one uniform number per row to a token and its log-probability."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

FRONT, FRONT_GROWTH = 128, 8  # tokens that top-p looks at first, and how many more each time


def sample_tokens(
    logits: Float[Tensor, "rows vocab"],
    uniforms: Float[Tensor, " rows"],
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Draw one token per row by inverse CDF, and its log-probability (nats) *before* the filters.

    The log-probability is that of softmax(logits / temperature), the distribution that is trained;
    the filters shape only what is drawn. Cheaper than softmax and multinomial. Ours.

    Args:
        logits: of the next token, any float dtype; computed in float32.
        uniforms: in (0, 1).
        temperature: > 0.
        top_p: keep the most probable tokens until they hold this much (1: all).
        top_k: keep this many of the most probable tokens (0: all).
        min_p: keep tokens of at least this share of the top token's probability (0: all).

    Returns:
        Tokens below ``vocab``, whatever the logits; a row whose logits hold NaN or +Inf has a
        log-probability of NaN.
    """
    peak = logits.amax(-1, keepdim=True).float()
    weights = logits.float().sub(peak)
    if temperature != 1:
        weights.div_(temperature)
    weights.exp_()
    log_total = weights.sum(-1, keepdim=True).log_()
    if top_p < 1 or top_k > 0 or min_p > 0:
        weights.masked_fill_(weights < filter_floor(weights, top_p, top_k, min_p), 0)
    cumulative = weights.cumsum_(-1)
    total = cumulative[:, -1:]
    # u · total can round up to total, behind the last token that has any weight.
    target = torch.minimum(uniforms[:, None] * total, total.nextafter(torch.zeros_like(total)))
    # The first sum that exceeds the target: a token of weight 0 raises no sum, so is never it.
    tokens = torch.searchsorted(cumulative, target, right=True)
    # Logits with NaN or +Inf exceed no target. An id within the vocabulary, with a log-probability
    # of NaN, is a bad step that the invariants count; one behind it is an error on the device.
    tokens = tokens.clamp_(max=logits.shape[-1] - 1)
    logprobs = (logits.gather(-1, tokens).float() - peak) / temperature - log_total
    return tokens[:, 0], logprobs[:, 0]


def filter_floor(
    weights: Float[Tensor, "rows vocab"], top_p: float, top_k: int, min_p: float
) -> Float[Tensor, "rows 1"]:
    """Return the least weight that survives top-k, then top-p of what is left, then min-p.

    Tokens of equal weight share their fate: at a tie on the border all of them stay. ``weights``
    need not sum to 1. The order is that of Hugging Face's ``generate``.
    """
    floor = min_p * weights.amax(-1, keepdim=True)
    if top_k > 0 and top_p >= 1:
        kept = weights.topk(min(top_k, weights.shape[-1]), sorted=True).values
        floor = torch.maximum(floor, kept[:, -1:])
    elif top_p < 1:
        if top_k > 0:
            kept = weights.topk(min(top_k, weights.shape[-1])).values
            total = kept.sum(-1, keepdim=True)
        else:
            total = weights.sum(-1, keepdim=True)
            kept = _most_probable(weights, top_p * total)
        before = kept.cumsum(-1) - kept
        nucleus = before < top_p * total
        last = nucleus.sum(-1, keepdim=True).sub_(1).clamp_(min=0)  # NaN: none is in the nucleus
        floor = torch.maximum(floor, kept.gather(-1, last))
    return floor


def _most_probable(
    weights: Float[Tensor, "rows vocab"], enough: Float[Tensor, "rows 1"]
) -> Float[Tensor, "rows kept"]:
    """The greatest weights, in order: as few as sum to ``enough`` in every row, or all.

    To sort a vocabulary costs a CPU ten times what a few of it do. To look whether the few were
    enough would have an accelerator wait, so there all are sorted.
    """
    count = FRONT if weights.device.type == "cpu" else weights.shape[-1]
    while count < weights.shape[-1]:
        kept = weights.topk(count).values
        if bool((kept.sum(-1, keepdim=True) >= enough).all()):
            return kept
        count *= FRONT_GROWTH
    return weights.sort(descending=True).values
