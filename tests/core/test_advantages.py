"""Advantages: hand-computed groups, ties, batch statistics over processes, dtypes."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from gprl_lightning.core.advantages import (
    aggregate_axes,
    axis_correlation,
    axis_mask,
    axis_products,
    axis_std,
    normalize_axes,
)
from gprl_lightning.core.options import Normalization

PLAIN: dict[str, Any] = {
    "normalization": "per_axis",
    "weighting": "eigenvalue",
    "advantage_scale": "paper",
}


def random_scores(groups: int, size: int, axes: int) -> Tensor:
    generator = torch.Generator().manual_seed(axes)
    return torch.randn(groups, size, axes, generator=generator, dtype=torch.float64)


def aggregated(axis_advantages: Tensor, **options: Any) -> Tensor:
    """With λ = (0.7, 0.3) in every group and multipliers at rest, unless told otherwise."""
    groups, _, axes = axis_advantages.shape
    eigenvalues = torch.tensor([[0.7, 0.3]]).to(axis_advantages).expand(groups, axes)
    arguments = {"eigenvalues": eigenvalues, "multipliers": torch.ones(axes), **PLAIN, **options}
    return aggregate_axes(axis_advantages, **arguments)


def test_std_is_that_of_the_population() -> None:
    """Scores 1, 3: deviations ±1, so the std is 1, where G - 1 would give √2."""
    assert axis_std(torch.tensor([[[1.0], [3.0]]])).item() == 1.0


def test_z_score_of_a_group_by_hand() -> None:
    """Scores 2, 0, 0, -2 have mean 0 and std √2."""
    scores = torch.tensor([[[2.0], [0.0], [0.0], [-2.0]]], dtype=torch.float64)
    found = normalize_axes(scores, "per_axis", epsilon=0.5)
    expected = 2 / (2**0.5 + 0.5)
    assert found.flatten().tolist() == pytest.approx([expected, 0, 0, -expected])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("normalization", ["per_axis", "global", "per_axis_whitened"])
def test_a_constant_group_gives_exactly_zero(dtype: torch.dtype, normalization: str) -> None:
    """0.1 is not a binary fraction: the mean of seven of them is not 0.1 in floating point."""
    scores = torch.full((2, 7, 2), 0.1, dtype=dtype)
    assert not axis_std(scores).any()
    axes = normalize_axes(scores, normalization)
    if normalization != "global":
        assert torch.equal(axes, torch.zeros_like(scores))
    advantages = aggregated(axes, normalization=normalization)
    assert advantages.dtype == dtype
    assert torch.equal(advantages, torch.zeros(2, 7, dtype=dtype))


def test_ties_get_the_same_advantage() -> None:
    scores = torch.tensor([[[1.0], [0.0], [1.0], [-2.0]]])
    advantages = normalize_axes(scores, "per_axis")[0, :, 0]
    assert advantages[0] == advantages[2] > advantages[1] > advantages[3]


def test_a_group_of_two_is_plus_and_minus_one() -> None:
    scores = torch.tensor([[[0.4], [-0.4]]], dtype=torch.float64)
    found = normalize_axes(scores, "per_axis", epsilon=1e-12).flatten()
    assert found.tolist() == pytest.approx([1.0, -1.0])


def test_a_uniform_shift_of_the_group_is_invisible() -> None:
    scores = random_scores(3, 5, 2)
    torch.testing.assert_close(
        normalize_axes(scores + 7.0, "per_axis"), normalize_axes(scores, "per_axis")
    )


def test_masked_axes_are_zero_under_every_normalization() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    for normalization in get_args(Normalization):
        found = normalize_axes(random_scores(2, 4, 2), normalization, mask)
        assert torch.equal(found[0, :, 1], torch.zeros(4, dtype=torch.float64))
        assert torch.equal(found[1, :, 0], torch.zeros(4, dtype=torch.float64))
        assert found[0, :, 0].all() and found[1, :, 1].all()


def test_mask_is_relative_to_the_running_std() -> None:
    std = torch.tensor([[0.02, 0.02, 0.0]])
    running = torch.tensor([1.0, 3.0, 0.0])
    assert axis_mask(std, running, 0.01).tolist() == [[True, False, False]]


def test_weights_by_hand() -> None:
    """One response with axis advantages (1, 2), λ = (0.7, 0.3), m = (0.5, 1.5).

    Eigenvalue: 0.7 · 0.5 · 1 + 0.3 · 1.5 · 2 = 1.25; uniform: 0.5 · 0.5 · 1 + 0.5 · 1.5 · 2 = 1.75;
    unit: 0.5 · 1 + 1.5 · 2 = 3.5.
    """
    axes = torch.tensor([[[1.0, 2.0], [-1.0, -2.0]]], dtype=torch.float64)
    multipliers = torch.tensor([0.5, 1.5], dtype=torch.float64)
    found = aggregated(axes, multipliers=multipliers)
    assert found.tolist() == [pytest.approx([1.25, -1.25])]
    found = aggregated(axes, multipliers=multipliers, weighting="uniform")
    assert found.tolist() == [pytest.approx([1.75, -1.75])]
    found = aggregated(axes, multipliers=multipliers, weighting="unit")
    assert found.tolist() == [pytest.approx([3.5, -3.5])]


def test_matched_and_whitened_have_unit_std_over_the_batch() -> None:
    scores = random_scores(6, 4, 2) * 5 + 1
    options = {"epsilon": 1e-9}
    matched = aggregated(scores, normalization="none", advantage_scale="matched", **options)
    raw = aggregated(scores, normalization="none")
    assert matched.std(unbiased=False).item() == pytest.approx(1.0)
    torch.testing.assert_close(matched, raw / raw.std(unbiased=False))  # not centred
    whitened = aggregated(scores, normalization="per_axis_whitened", **options)
    assert whitened.std(unbiased=False).item() == pytest.approx(1.0)
    assert whitened.mean().item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"normalization": "per_axis_whitened"},
        {"normalization": "none", "advantage_scale": "matched"},
    ],
)
def test_batch_statistics_are_those_of_all_processes(options: dict[str, Any]) -> None:
    """Two processes with 1 and 3 groups get what one process gets with 4 groups."""
    axes = random_scores(4, 5, 2)
    parts, sent = [axes[:1], axes[1:]], list[Tensor]()

    def recorded(statistics: Tensor) -> Tensor:
        sent.append(statistics)
        return statistics

    alone = torch.cat([aggregated(part, all_reduce=recorded, **options) for part in parts])
    together = [
        aggregated(part, all_reduce=lambda _: sent[0] + sent[1], **options) for part in parts
    ]
    whole = aggregated(axes, **options)
    torch.testing.assert_close(torch.cat(together), whole)
    assert not torch.allclose(alone, whole, rtol=1e-3)


def test_result_keeps_the_dtype_of_the_advantages() -> None:
    """The controller's multipliers are float64; they must not turn a float32 loss into float64."""
    axes = random_scores(2, 4, 2).float()
    multipliers = torch.ones(2, dtype=torch.float64)
    for normalization in get_args(Normalization):
        for scale in ("paper", "matched"):
            options = {"normalization": normalization, "advantage_scale": scale}
            assert aggregated(axes, multipliers=multipliers, **options).dtype == torch.float32


def test_advantages_are_permutation_equivariant() -> None:
    axes, order = random_scores(3, 5, 2), torch.tensor([3, 1, 4, 0, 2])
    for normalization in get_args(Normalization):
        there = aggregated(
            normalize_axes(axes[:, order], normalization), normalization=normalization
        )
        back = aggregated(normalize_axes(axes, normalization), normalization=normalization)
        torch.testing.assert_close(there, back[:, order])


def correlation(scores: torch.Tensor) -> torch.Tensor:
    return axis_correlation(axis_products(scores))


def test_correlation_of_copies_opposites_and_strangers() -> None:
    """Pairs (a, 2a), (a, -a), (2a, -a) correlate by 1, -1, -1, whatever the groups' means."""
    column = torch.tensor([[1.0, -1.0, 0.0], [3.0, 4.0, 5.0]], dtype=torch.float64)
    scores = torch.stack([column, 2 * column + 7, -column], dim=-1)
    assert correlation(scores).item() == pytest.approx(-1 / 3)
    stranger = torch.tensor([[1.0, 1.0, -2.0], [1.0, -2.0, 1.0]], dtype=torch.float64)
    assert correlation(torch.stack([column, stranger], dim=-1)).item() == pytest.approx(0.0)


def test_correlation_of_one_axis_or_of_axes_that_do_not_vary_is_zero() -> None:
    assert correlation(random_scores(2, 3, 1)).item() == 0.0
    flat = random_scores(2, 3, 2)
    flat[..., 1] = 0.1
    assert correlation(flat).item() == 0.0
