"""The terms that pull axes apart, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from gprl_lightning.core.distinct_axes import (
    attribute_loss,
    correlation_penalty,
    gate_information,
)
from gprl_lightning.core.preference import axis_pairs, group_scores


def test_correlation_penalty_of_copies_opposites_and_strangers():
    """x, −2x and y ⟂ x: squared correlations 1, 0, 0 of three pairs of axes."""
    x, y = torch.tensor([1.0, 2.0, -2.0]), torch.tensor([2.0, -1.0, 0.0])
    assert correlation_penalty(torch.stack([x, 3 * x], 1)).item() == pytest.approx(1)
    assert correlation_penalty(torch.stack([x, y], 1)).item() == pytest.approx(0, abs=1e-6)
    assert correlation_penalty(torch.stack([x, -2 * x, y], 1)).item() == pytest.approx(1 / 3)


def test_one_axis_has_nothing_to_be_like():
    assert correlation_penalty(torch.randn(5, 1)).item() == 0


def test_correlation_penalty_is_that_of_the_group_scores_of_pairs():
    """Each pair as a group of two: Pearson's correlation over all of its responses."""
    vectors = torch.randn(50, 2, 4, generator=torch.Generator().manual_seed(0))
    scores = group_scores(axis_pairs(vectors))
    pearson = torch.corrcoef(scores.flatten(0, 1).T)[0, 1]
    assert correlation_penalty(scores[:, 0]).item() == pytest.approx(pearson.item() ** 2, abs=1e-6)


def test_gradient_of_a_silent_axis_is_finite():
    scores = torch.zeros(4, 2, requires_grad=True)
    correlation_penalty(scores).backward()
    assert scores.grad is not None and bool(scores.grad.isfinite().all())


def test_gate_information_of_constant_and_of_one_hot_gates():
    assert gate_information(torch.tensor([[0.7, 0.3]] * 4)).item() == pytest.approx(0, abs=1e-6)
    assert gate_information(torch.eye(3)).item() == pytest.approx(math.log(3))
    # H(½, ½) − H(0.9, 0.1)
    rows = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    expected = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    assert gate_information(rows).item() == pytest.approx(expected, abs=1e-6)
    assert gate_information(2 * rows).item() == pytest.approx(expected, abs=1e-6)  # `scaled`


def test_attribute_loss_reads_only_the_axes_that_have_an_attribute():
    """τ = 0.5: ½ [ln(1 + e^−1) + ln(1 + e^−2)] for scores 0.5 and −1 with labels 1 and 0."""
    scores = torch.tensor([[0.5, 7.0], [-1.0, -7.0]])
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 2
    found = attribute_loss(scores, torch.tensor([[1.0], [0.0]]), 0.5)
    assert found.item() == pytest.approx(expected)
