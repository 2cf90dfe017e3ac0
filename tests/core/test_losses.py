"""The loss by token: hand-computed values, the three normalisers, harmless padding."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from gprl_lightning.core.losses import (
    clipped_surrogate,
    expected_weight_sums,
    kl_estimate,
    masked_sum,
    token_weights,
    zero_outside,
)
from gprl_lightning.core.options import KLEstimator, LossAggregation

MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_on_policy_the_loss_is_minus_the_advantage_and_its_gradient_too() -> None:
    logprobs = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
    loss, ratio, clipped = clipped_surrogate(
        logprobs, logprobs.detach(), torch.tensor([2.0, -1.0]), 0.2, None
    )
    loss.sum().backward()
    assert loss.tolist() == logprobs.grad.tolist() == [[-2.0, -2.0], [1.0, 1.0]]
    assert ratio.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert not clipped.any() and not ratio.requires_grad


def test_clipped_tokens_have_no_gradient_and_others_have_theirs() -> None:
    """Ratio 2 and 1/2 under A = 1 and -1. Only (2, A = 1) and (1/2, A = -1) are clipped.

    Where free, the loss is -ratio · A, and so is its gradient by the log-probability.
    """
    logprobs = torch.tensor([[2.0, 0.5]] * 2, dtype=torch.float64).log().requires_grad_()
    loss, _, clipped = clipped_surrogate(
        logprobs, torch.zeros(2, 2, dtype=torch.float64), torch.tensor([1.0, -1.0]), 0.2, None
    )
    loss.sum().backward()
    assert clipped.tolist() == [[True, False], [False, True]]
    assert loss.detach().tolist() == [pytest.approx([-1.2, -0.5]), pytest.approx([2.0, 0.8])]
    assert logprobs.grad.tolist() == [pytest.approx([0, -0.5]), pytest.approx([2.0, 0])]


def test_clip_higher_moves_the_upper_bound_alone() -> None:
    logprobs = torch.tensor([[1.25, 0.75]]).log()
    for high, expected in ((None, 1.2), (0.28, 1.25)):
        loss, _, clipped = clipped_surrogate(logprobs, torch.zeros(1, 2), torch.ones(1), 0.2, high)
        assert -loss[0].tolist()[0] == pytest.approx(expected)
        assert clipped.tolist() == [[high is None, False]]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_absurd_ratio_gives_a_finite_gradient(sign: float) -> None:
    logprobs = torch.zeros(1, 2, requires_grad=True)
    old = torch.tensor([[-500.0, 500.0]])
    loss, ratio, _ = clipped_surrogate(logprobs, old, torch.tensor([sign]), 0.2, None)
    (loss.sum() + kl_estimate(logprobs, -old, "k3").sum()).backward()
    assert ratio.isfinite().all() and loss.isfinite().all() and logprobs.grad.isfinite().all()


def test_kl_estimators_by_hand() -> None:
    """log π_θ = ln 0.5, log π_ref = ln 0.25: the ratio π_ref / π_θ is 1/2."""
    logprobs, ref = torch.tensor([[0.5]]).double().log(), torch.tensor([[0.25]]).double().log()
    log2 = math.log(2)
    expected = {"k1": log2, "k2": log2**2 / 2, "k3": 0.5 + log2 - 1}
    for estimator in get_args(KLEstimator):
        assert kl_estimate(logprobs, ref, estimator).item() == pytest.approx(expected[estimator])


def test_k3_averages_to_the_divergence() -> None:
    """Weighted by p = (.6, .3, .1), k1 and k3 against q = (.2, .3, .5) give KL(p, q)."""
    p = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)
    q = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    divergence = 0.6 * math.log(3) + 0.1 * math.log(0.2)
    for estimator in ("k1", "k3"):
        mean = (p * kl_estimate(p.log(), q.log(), estimator)).sum().item()
        assert mean == pytest.approx(divergence)
    assert (kl_estimate(p.log(), q.log(), "k3") >= 0).all()


def test_token_weights_by_hand() -> None:
    """Rows of 3 and 1 tokens, of at most 5, in a minibatch of 4 rollouts and 8 tokens."""
    expected = {
        "dr_grpo": [[1 / 20, 1 / 20, 1 / 20], [1 / 20, 0, 0]],
        "dapo": [[1 / 8, 1 / 8, 1 / 8], [1 / 8, 0, 0]],
        "grpo": [[1 / 12, 1 / 12, 1 / 12], [1 / 4, 0, 0]],
    }
    for aggregation in get_args(LossAggregation):
        weights = token_weights(MASK, aggregation, num_rollouts=4, num_tokens=8, max_tokens=5)
        torch.testing.assert_close(weights, torch.tensor(expected[aggregation]))


@pytest.mark.parametrize("aggregation", get_args(LossAggregation))
def test_an_empty_row_weighs_nothing(aggregation: str) -> None:
    empty = torch.zeros(2, 3, dtype=torch.bool)
    assert token_weights(empty, aggregation, 2, 0, 5).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("aggregation", get_args(LossAggregation))
def test_losses_of_micro_batches_add_up_whatever_the_padding(aggregation: str) -> None:
    per_token = torch.arange(6.0).reshape(2, 3)
    whole = masked_sum(per_token, token_weights(MASK, aggregation, 2, 4, 5), MASK)
    parts = 0.0
    for row, columns in ((0, 3), (1, 1)):  # the second row without its padding
        mask = MASK[row : row + 1, :columns]
        weights = token_weights(mask, aggregation, 2, 4, 5)
        parts += masked_sum(per_token[row : row + 1, :columns], weights, mask).item()
    assert parts == pytest.approx(whole.item())


def loss_with(padding: Tensor, old_padding: Tensor) -> tuple[float, Tensor]:
    """Loss and gradient with ``padding`` for the policy's log-probabilities outside the mask."""
    raw = torch.where(MASK, torch.linspace(-2.0, -1.0, 6).reshape(2, 3), padding)
    raw.requires_grad_()
    logprobs = zero_outside(MASK, raw)
    old = torch.where(MASK, torch.full((2, 3), -1.4), old_padding)
    per_token, _, _ = clipped_surrogate(logprobs, old, torch.tensor([1.0, -0.5]), 0.2, None)
    per_token = per_token + 0.1 * kl_estimate(logprobs, old, "k3")
    loss = masked_sum(per_token, token_weights(MASK, "dr_grpo", 2, 4, 3), MASK)
    loss.backward()
    return loss.item(), raw.grad


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e30])
def test_padding_cannot_poison_the_loss_or_its_gradient(poison: float) -> None:
    zero, bad = torch.zeros(2, 3), torch.full((2, 3), poison)
    loss, gradient = loss_with(zero, zero)
    assert gradient[MASK].all()
    for padding, old_padding in ((bad, zero), (zero, bad), (bad, bad)):
        poisoned, poisoned_gradient = loss_with(padding, old_padding)
        assert poisoned == loss
        assert torch.equal(poisoned_gradient, gradient)


@pytest.mark.parametrize(
    ("aggregation", "total", "squares"),
    [
        ("dr_grpo", 4 / 10, 4 / 100),  # each token 1 / (2 · 5)
        ("dapo", 1.0, 1 / 4),  # each token 1 / 4
        ("grpo", 1.0, 3 / 36 + 1 / 4),  # three tokens of 1 / (2 · 3), one of 1 / 2
    ],
)
def test_sums_of_weights_by_hand(
    aggregation: LossAggregation, total: float, squares: float
) -> None:
    expected = expected_weight_sums(2.0, 4.0, 1 / 3 + 1, aggregation, 5)
    assert expected == pytest.approx((total, squares))
    weights = token_weights(MASK, aggregation, 2, 4, 5, torch.float64)
    assert weights.dtype == torch.float64
    assert float(weights.sum()) == pytest.approx(total)
    assert float(weights.square().sum()) == pytest.approx(squares)


@pytest.mark.parametrize("aggregation", get_args(LossAggregation))
def test_weights_of_a_split_minibatch_give_it_away(aggregation: LossAggregation) -> None:
    """Made from a micro-batch's own counts, their sum or their squares' sum is another."""
    parts = [MASK[:1], MASK[1:]]
    own = [token_weights(m, aggregation, 1, int(m.sum()), 5, torch.float64) for m in parts]
    total, squares = expected_weight_sums(2.0, 4.0, 1 / 3 + 1, aggregation, 5)
    for scale in (1.0, 0.5):  # summed; or the mean of means, which grpo and dr_grpo are anyway
        found = sum(float((scale * w).sum()) for w in own)
        found_squares = sum(float((scale * w).square().sum()) for w in own)
        right = found == pytest.approx(total) and found_squares == pytest.approx(squares)
        assert right == (scale == 0.5 and aggregation != "dapo")


def _expected_gradient(estimator: str, logits: Tensor, reference: Tensor) -> Tensor:
    """Of the estimate as a loss on the policy's own samples: Σ_y π(y) ∇ k(y), over every y."""
    probabilities = logits.softmax(0)
    logprobs, ref_logprobs = logits.log_softmax(0), reference.log_softmax(0)
    estimates = kl_estimate(logprobs[:, None], ref_logprobs[:, None], estimator)[:, 0]
    return torch.autograd.grad((probabilities.detach() * estimates).sum(), logits)[0]


def test_each_kl_estimator_pulls_by_a_divergence_of_its_own():
    """k1 by none, k2 by KL(π ‖ π_ref), k3 by KL(π_ref ‖ π): METHOD §2."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, generator=generator).double().requires_grad_()
    reference = torch.randn(7, generator=generator).double()
    ours, theirs = logits.log_softmax(0), reference.log_softmax(0)
    forward = torch.autograd.grad((ours.exp() * (ours - theirs)).sum(), logits, retain_graph=True)
    reverse = torch.autograd.grad((theirs.exp() * (theirs - ours)).sum(), logits)
    assert not torch.allclose(forward[0], reverse[0], atol=1e-3)
    torch.testing.assert_close(_expected_gradient("k2", logits, reference), forward[0])
    torch.testing.assert_close(_expected_gradient("k3", logits, reference), reverse[0])
    zero = torch.zeros(7).double()
    torch.testing.assert_close(_expected_gradient("k1", logits, reference), zero)
