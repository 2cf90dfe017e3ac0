"""DPO, IPO and SimPO: against loops in float64, their properties, and no dead option."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from gprl_lightning.core.pair_losses import DPO, IPO, PairLogprobs, SimPO
from gprl_lightning.core.square_loss import SquareLoss
from tests import oracle_objectives as oracle
from tests.core.examples import double

LOSSES = (DPO(), IPO(), SimPO(), SquareLoss(beta=0.01))
LABELS = (1.0, 1.0, 0.7, 0.0, 0.5)


def example() -> PairLogprobs:
    """Five pairs of 2 to 40 tokens, of an untrained policy and of one far from the reference."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 41, (5, 2), generator=generator)
    noise = torch.randn(3, 5, 2, generator=generator, dtype=torch.float64)
    reference = -tokens * (1.5 + 0.3 * noise[0])
    return PairLogprobs(
        logprobs=(reference + 4 * noise[1]).requires_grad_(),
        ref_logprobs=reference,
        tokens=tokens,
        labels=double(LABELS),
        gains=noise[2] / 4,
    )


def by_pair(pairs: PairLogprobs):
    return zip(
        pairs.logprobs.tolist(),
        pairs.ref_logprobs.tolist(),
        pairs.tokens.tolist(),
        pairs.labels.tolist(),
        strict=True,
    )


@pytest.mark.parametrize("beta", [0.01, 0.1, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dpo_against_the_oracle(beta, smoothing):
    pairs = example()
    expected = [oracle.dpo(p, r, y, beta, smoothing) for p, r, _, y in by_pair(pairs)]
    found = DPO(beta, smoothing)(pairs).loss
    torch.testing.assert_close(found, double(expected), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("beta", [0.01, 0.1, 2.0])
@pytest.mark.parametrize("per_token", [True, False])
def test_ipo_against_the_oracle(beta, per_token):
    pairs = example()
    expected = [oracle.ipo(p, r, n, y, beta, per_token) for p, r, n, y in by_pair(pairs)]
    found = IPO(beta, per_token)(pairs).loss
    torch.testing.assert_close(found, double(expected), atol=1e-10, rtol=1e-12)


@pytest.mark.parametrize("ratio", [0.0, 0.55])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_simpo_against_the_oracle(ratio, smoothing):
    pairs = example()
    expected = [oracle.simpo(p, n, y, 2.5, ratio, smoothing) for p, _, n, y in by_pair(pairs)]
    found = SimPO(2.5, ratio, smoothing)(pairs).loss
    torch.testing.assert_close(found, double(expected), atol=1e-12, rtol=1e-12)


def test_at_the_reference_dpo_is_log_two_and_its_slope_is_half_beta():
    """h = 0: −log σ(0) = log 2, and its derivative by log π of the chosen is −β (1 − σ(0))."""
    pairs = example()
    start = pairs.ref_logprobs.clone().requires_grad_()
    certain = replace(pairs, logprobs=start, labels=torch.ones(5, dtype=torch.float64))
    loss = DPO(beta=0.3)(certain).loss
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(2)))
    (slope,) = torch.autograd.grad(loss.sum(), start)
    torch.testing.assert_close(slope, double([[-0.15, 0.15]] * 5))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_swapping_a_pair_with_its_label_changes_nothing(loss):
    """But for SimPO's γ, which is asked of the first response."""
    loss = replace(loss, gamma_beta_ratio=0.0) if isinstance(loss, SimPO) else loss
    pairs = example()
    other = PairLogprobs(
        pairs.logprobs.flip(1), pairs.ref_logprobs.flip(1), pairs.tokens.flip(1),
        1 - pairs.labels, pairs.gains.flip(1),
    )  # fmt: skip
    torch.testing.assert_close(loss(pairs).loss, loss(other).loss)
    torch.testing.assert_close(loss(pairs).margin, -loss(other).margin)


@pytest.mark.parametrize("beta", [1e-3, 0.5])
@pytest.mark.parametrize("hard", [False, True])
def test_the_square_loss_against_the_oracle(beta, hard):
    pairs = example()
    expected = [
        oracle.square(p, r, g, beta, hard)
        for p, r, g in zip(
            pairs.logprobs.tolist(), pairs.ref_logprobs.tolist(), pairs.gains.tolist(), strict=True
        )
    ]
    found = SquareLoss(beta, hard)(pairs).loss
    torch.testing.assert_close(found, double(expected), atol=1e-9, rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_certain_label_raises_the_chosen_response(loss):
    certain = {"labels": torch.ones(5).double(), "gains": double([[0.5, -0.5]] * 5)}
    pairs = replace(example(), **certain)
    (slope,) = torch.autograd.grad(loss(pairs).loss.sum(), pairs.logprobs)
    if isinstance(loss, IPO):  # past its target it holds the pair back
        behind = loss(pairs).margin < 1 / (2 * loss.beta)
        slope = slope[behind]
    assert len(slope) and (slope[:, 0] < 0).all() and (slope[:, 1] > 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_the_reference_is_read_exactly_where_a_loss_says_so(loss):
    pairs = example()
    moved = replace(pairs, ref_logprobs=pairs.ref_logprobs + double([1.0, -1.0]))
    assert (not torch.equal(loss(pairs).loss, loss(moved).loss)) == loss.needs_reference


@pytest.mark.parametrize(
    "loss, option, value",
    [
        (DPO(), "beta", 0.2),
        (DPO(), "label_smoothing", 0.1),
        (IPO(), "beta", 0.2),
        (IPO(), "per_token", False),
        (SquareLoss(), "beta", 2e-3),
        (SquareLoss(), "hard", True),
        (SimPO(), "beta", 2.0),
        (SimPO(), "gamma_beta_ratio", 0.3),
        (SimPO(), "label_smoothing", 0.1),
    ],
)
def test_every_option_is_alive(loss, option, value):
    pairs = example()
    slopes = [
        torch.autograd.grad(chosen(pairs).loss.sum(), pairs.logprobs)[0]
        for chosen in (loss, replace(loss, **{option: value}))
    ]
    assert (slopes[0] - slopes[1]).abs().max() > 1e-4


def test_a_far_policy_stays_finite():
    """A log-ratio of ± 1e4 nats: no overflow, and the wrong order still has a gradient."""
    logprobs = torch.tensor([[-1e4, 0.0], [0.0, -1e4]], requires_grad=True)
    tokens = torch.full((2, 2), 10)
    gains = torch.tensor([[0.5, -0.5]]).expand(2, 2)
    pairs = PairLogprobs(logprobs, torch.zeros(2, 2), tokens, torch.ones(2), gains)
    for loss in LOSSES:
        terms = loss(pairs)
        (slope,) = torch.autograd.grad(terms.loss.sum(), logprobs)
        assert terms.loss.isfinite().all() and slope.isfinite().all()
        assert slope[0, 0] < 0
