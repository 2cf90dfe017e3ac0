"""What is drawn has the distribution that the options name: chi-square on a small vocabulary."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from gprl_lightning.rollout import sampling
from gprl_lightning.rollout.randomness import uniforms
from gprl_lightning.rollout.sampling import filter_floor, sample_tokens

LOGITS = [0.3, 2.0, -1.0, 1.1, 0.0, -4.0, 1.9, 0.7]
DRAWS = 40_000
FILTERS = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 3},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"temperature": 1.7, "top_k": 6, "top_p": 0.9, "min_p": 0.15},
]


def distribution(
    temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> list[float]:
    """The distribution by loops: temper, keep k, keep the nucleus of what is left, then min-p."""
    weights = [math.exp(logit / temperature) for logit in LOGITS]
    kept = sorted(range(len(weights)), key=lambda i: -weights[i])
    kept = kept[:top_k] if top_k else kept
    total, mass, nucleus = sum(weights[i] for i in kept), 0.0, []
    for i in kept:
        if mass < top_p * total:
            nucleus.append(i)
        mass += weights[i]
    kept = [i for i in nucleus if weights[i] >= min_p * max(weights)]
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(weights))]


def draws(count: int) -> Tensor:
    return uniforms(0, 0, torch.arange(count), torch.zeros(count, dtype=torch.long), 0)


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_chi_square(options):
    """The statistic is within five deviations of its mean (df, deviation sqrt(2 df))."""
    logits = torch.tensor(LOGITS).expand(DRAWS, -1)
    tokens, _ = sample_tokens(logits, draws(DRAWS), **options)
    counts = torch.bincount(tokens, minlength=len(LOGITS)).tolist()
    expected = [DRAWS * p for p in distribution(**options)]
    assert all(count == 0 for count, mean in zip(counts, expected, strict=True) if mean == 0)
    pairs = [(c, e) for c, e in zip(counts, expected, strict=True) if e > 0]
    statistic = sum((c - e) ** 2 / e for c, e in pairs)
    freedom = len(pairs) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


def test_each_option_changes_the_distribution():
    """What the chi-square above could otherwise not tell apart."""
    found = [tuple(round(p, 3) for p in distribution(**options)) for options in FILTERS]
    assert len(set(found)) == len(FILTERS)


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_logprobs_are_tempered_and_unfiltered(options):
    logits = torch.tensor(LOGITS).expand(64, -1)
    tokens, logprobs = sample_tokens(logits, draws(64), **options)
    tempered = [logit / options.get("temperature", 1.0) for logit in LOGITS]
    normalizer = math.log(sum(map(math.exp, tempered)))
    for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True):
        assert logprob == pytest.approx(tempered[token] - normalizer, abs=1e-6)


def test_inverse_of_the_cumulative_distribution():
    """Weights 1 : 0 : 2 : 1: the borders are at 1/4 and 3/4, and the second token never comes."""
    logits = torch.tensor([1.0, 0.0, 2.0, 1.0]).log().expand(6, -1)
    uniform = torch.tensor([2**-24, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-24])
    tokens, logprobs = sample_tokens(logits, uniform)
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.25, 0.25, 0.5, 0.5, 0.25, 0.25]))


def test_the_ends_of_the_interval_never_leave_the_support():
    """Behind the last token with any weight there are others; no rounding may reach them."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4096, 300, generator=generator) * 4
    logits[:, 200:] = -math.inf
    logits[:, :10] = -math.inf
    for uniform in (2.0**-24, 1 - 2.0**-24):
        tokens, logprobs = sample_tokens(logits, torch.full((4096,), uniform))
        assert int(tokens.min()) >= 10
        assert int(tokens.max()) < 200
        assert torch.isfinite(logprobs).all()


def test_half_precision_logits_are_sampled_in_float32():
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(1)).bfloat16()
    tokens, logprobs = sample_tokens(logits, draws(8), temperature=0.3)
    wide = sample_tokens(logits.float(), draws(8), temperature=0.3)
    assert logprobs.dtype == torch.float32
    assert torch.equal(tokens, wide[0]) and torch.equal(logprobs, wide[1])


@pytest.mark.parametrize("top_k", [0, 1, 7, 500])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 0.001])
@pytest.mark.parametrize("min_p", [0.0, 0.1])
def test_the_support_is_that_of_hugging_face(top_k, top_p, min_p):
    logits = torch.randn(64, 100, generator=torch.Generator().manual_seed(2)) * 2
    expected = logits
    if top_k:
        expected = TopKLogitsWarper(min(top_k, 100))(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    if min_p:
        expected = MinPLogitsWarper(min_p)(None, expected)
    weights = logits.softmax(-1)
    kept = weights >= filter_floor(weights, top_p, top_k, min_p)
    assert torch.equal(kept, expected.isfinite())


@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_top_p_of_a_large_vocabulary_is_that_of_all_of_it_sorted(top_p, spread, monkeypatch):
    """From rows that few tokens dominate to flat ones, of which the first look sees too little."""
    torch.manual_seed(0)
    weights = (torch.randn(4, 3000) * torch.tensor([[spread], [1.0], [3.0], [0.1]])).exp()
    found = filter_floor(weights, top_p, 0, 0.0)
    monkeypatch.setattr(sampling, "FRONT", 3000)
    assert torch.equal(found, filter_floor(weights, top_p, 0, 0.0))
    monkeypatch.undo()
    ordered = weights.double().sort(descending=True).values
    sums = ordered.cumsum(-1) / ordered.sum(-1, keepdim=True)
    for row in range(4):
        count = int((sums[row] < top_p).sum()) + 1
        right = float(ordered[row, min(count, 3000) - 1])
        assert float(found[row, 0]) == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize("options", FILTERS, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("everywhere", [False, True])
def test_no_logits_give_a_token_behind_the_vocabulary(value, everywhere, options):
    logits = torch.tensor([LOGITS] * 3)
    logits[1, slice(None) if everywhere else 4] = value
    tokens, logprobs = sample_tokens(logits, torch.tensor([0.1, 0.999, 0.5]), **options)
    assert ((tokens >= 0) & (tokens < len(LOGITS))).all()
    assert logprobs[[0, 2]].isfinite().all()
    masked = value == -math.inf and not everywhere  # a token that cannot be drawn is no fault
    assert logprobs[1].isfinite() if masked else logprobs[1].isnan()
