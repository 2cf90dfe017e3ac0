"""The χ² of whole responses: by loops, by enumeration of all responses, and its tangents."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from gprl_lightning.core.chi_squared import chi_squared, chi_squared_by_token, root_slope
from tests.core.examples import double


def looped(log_ratio):
    """(r − 1) + (1/r − 1), both along their tangents beyond 10 nats."""

    def less_one(x):
        return math.exp(x) - 1 if x < 10 else math.exp(10) * (1 + x - 10) - 1

    return less_one(log_ratio) + less_one(-log_ratio)


def test_by_loops():
    given = [-30.0, -10.5, -10.0, -3.0, -1e-6, 0.0, 0.2, 9.99, 10.0, 12.0, 80.0]
    expected = double([looped(x) for x in given])
    torch.testing.assert_close(chi_squared(double(given)), expected, rtol=1e-12, atol=1e-15)
    assert (chi_squared(double(given)) >= 0).all()
    assert chi_squared(double([0.0])).item() == 0


def test_a_response_s_term_is_spread_over_its_tokens_and_padding_is_silent():
    logprobs = double([[-1.0, -2.0, 5.0], [-0.5, -1.0, -0.1]])
    ref = double([[-1.5, -1.7, torch.nan], [-0.25, -1.5, -0.6]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    found = chi_squared_by_token(logprobs, ref, mask)
    terms = [looped(0.2), looped(-0.25 + 0.5 + 0.5)]
    expected = [[terms[0] / 2, terms[0] / 2, 0.0], [terms[1] / 3] * 3]
    torch.testing.assert_close(found, double(expected))


@pytest.mark.parametrize("mean, expected", [(4.0, 0.25), (0.25, 1.0), (0.0, 50.0), (1e-9, 50.0)])
def test_the_root_s_slope_by_hand(mean, expected):
    assert root_slope(double(mean)).item() == pytest.approx(expected)


def test_mean_and_gradient_over_all_responses():
    """Two tokens of three letters: all nine responses, each with its probability.

    The mean is Σ π²/π_ref − 1. The gradient through the ratio, under π as the sampling weight, is
    that of ½ χ²(π ‖ π_ref) + KL(π_ref ‖ π).
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    reference = torch.randn(4, 3, generator=generator, dtype=torch.float64).log_softmax(-1)
    logits.requires_grad_()

    def of_responses(table):
        pairs = itertools.product(range(3), range(3))
        return torch.stack([torch.stack([table[0, a], table[1 + a, b]]) for a, b in pairs])

    new, ref = of_responses(logits.log_softmax(-1)), of_responses(reference)
    chance = new.sum(1).exp().detach()
    mask = torch.ones(9, 2).bool()
    mean = (chance * chi_squared_by_token(new, ref, mask).sum(1)).sum()
    pi, pi_ref = new.sum(1).exp(), ref.sum(1).exp()
    exact = (pi.square() / pi_ref).sum() - 1
    torch.testing.assert_close(mean, exact)
    (found,) = torch.autograd.grad(mean, logits, retain_graph=True)
    pulled = 0.5 * exact + (pi_ref * (pi_ref.log() - pi.log())).sum()
    (expected,) = torch.autograd.grad(pulled, logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert expected.abs().max() > 0.05
