"""The package against `tests.oracle`: METHOD §1 and the advantages of §2, in float64."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch
from torch import Tensor

from gprl_lightning.core import advantages as package
from gprl_lightning.core.options import AdvantageScale, Normalization, Weighting
from gprl_lightning.core.preference import (
    axis_pairs,
    group_scores,
    pairwise_scores,
    scores_against,
    total_scores,
    win_probability,
)
from tests import oracle
from tests.core.examples import KINDS, batch, close, double, gates, group, multipliers

AXES = (1, 2, 3, 4)


# The oracle itself, against numbers from elsewhere -----------------------------------------------


def test_oracle_reproduces_the_published_model_code() -> None:
    """Two responses of a checkpoint scored by the GPM authors' own code (float32, tau 0.1)."""
    first = [0.68465137, 0.17830919, 0.58462179, 0.13730429, 0.37233308, 0.013833458]
    second = [0.80127996, -0.40061277, 0.34006917, 0.15182191, 0.23211756, 0.069887817]
    gate = [0.018558659, 0.027452787, 0.95398849]
    score = oracle.total_score(first, second, gate)
    assert score == pytest.approx(0.015173974, abs=1e-8)
    assert oracle.win_probability(score, 0.1) == pytest.approx(0.5378623, abs=1e-7)
    assert oracle.softmax([-0.90107942, -0.50954813, 3.0386357]) == pytest.approx(gate, abs=1e-7)


def test_oracle_gradient_of_a_known_function() -> None:
    """d/dx (x^3 y) = 3 x^2 y = 24 and d/dy = x^3 = 8 at (2, 2)."""
    assert oracle.gradient(lambda p: p[0] ** 3 * p[1], [2.0, 2.0]) == pytest.approx([24, 8])


# §1: scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "axes"), product(KINDS, AXES))
def test_scores(kind: str, axes: int) -> None:
    groups = batch(kind, axes)
    vectors = axis_pairs(double(groups))
    pairs = [
        [[[oracle.pairwise_score(a, b, axis) for axis in range(axes)] for b in g] for a in g]
        for g in groups
    ]
    close(pairwise_scores(vectors), pairs)
    close(group_scores(vectors), [oracle.group_scores(g) for g in groups])
    close(scores_against(vectors, vectors[:, :2]), [[row[:2] for row in g] for g in pairs])


@pytest.mark.parametrize(("kind", "axes"), product(KINDS, AXES))
def test_bounded_group_scores(kind: str, axes: int) -> None:
    groups = batch(kind, axes)
    for tau in (0.1, 1.0):
        found = group_scores(axis_pairs(double(groups)), "bounded", tau)
        close(found, [oracle.bounded_group_scores(g, tau) for g in groups])
        close(found.sum(1), torch.zeros(len(groups), axes).tolist())


def test_bounded_scores_of_bradley_terry_by_hand() -> None:
    """Rewards 0, 1 and 100 (vectors [r, 1]): 100 gains no more than two sure wins."""
    found = group_scores(double([[[[0.0, 1.0]], [[1.0, 1.0]], [[100.0, 1.0]]]]), "bounded", 1.0)
    step = oracle.win_probability(1.0, 1.0)
    assert found.flatten().tolist() == pytest.approx(
        [(1 - step + 0) / 2 - 0.5, (step + 0) / 2 - 0.5, 1 - 0.5]
    )


@pytest.mark.parametrize("axes", AXES)
def test_group_scores_in_single_precision(axes: int) -> None:
    groups = batch("random", axes)
    found = group_scores(axis_pairs(torch.tensor(groups, dtype=torch.float32))).double()
    close(found, [oracle.group_scores(g) for g in groups], atol=1e-6)


@pytest.mark.parametrize("axes", AXES)
def test_total_score_and_win_probability(axes: int) -> None:
    groups, rows = batch("random", axes), gates(axes)
    totals = [
        [[oracle.total_score(a, b, gate) for b in g] for a in g]
        for g, gate in zip(groups, rows, strict=True)
    ]
    found = total_scores(
        pairwise_scores(axis_pairs(double(groups))), double(rows)[:, None, None, :]
    )
    close(found, totals)
    chances = [[[oracle.win_probability(s, 0.1) for s in row] for row in g] for g in totals]
    close(win_probability(found, 0.1), chances)


# §2: advantages ----------------------------------------------------------------------------------


def package_advantages(
    groups: list, options: tuple[str, str, str], epsilon: float = 1e-4, mask: Tensor | None = None
) -> Tensor:
    normalization, weighting, scale = options
    axes = len(groups[0][0]) // 2
    normalized = package.normalize_axes(
        group_scores(axis_pairs(double(groups))), normalization, mask, epsilon
    )
    return package.aggregate_axes(
        normalized,
        double(gates(axes)),
        double(multipliers(axes)),
        normalization,
        weighting,
        scale,
        epsilon,
    )


OPTIONS = tuple(product(get_args(Normalization), get_args(Weighting), get_args(AdvantageScale)))


@pytest.mark.parametrize("options", OPTIONS, ids="-".join)
@pytest.mark.parametrize("kind", KINDS)
def test_advantages(kind: str, options: tuple[str, str, str]) -> None:
    for axes in AXES:
        groups = batch(kind, axes)
        scores = [oracle.group_scores(g) for g in groups]
        expected = oracle.advantages(scores, gates(axes), multipliers(axes), *options)
        close(package_advantages(groups, options), expected)


@pytest.mark.parametrize("options", OPTIONS, ids="-".join)
def test_aggregation_of_any_axis_advantages(options: tuple[str, str, str]) -> None:
    """With a mean that is not 0, as no skew-symmetric game gives it: whitening has to remove it."""
    rows, weights = double(gates(3)), double(multipliers(3))
    values = torch.rand(3, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = oracle.aggregate(values.tolist(), gates(3), multipliers(3), *options, 1e-4)
    close(package.aggregate_axes(values, rows, weights, *options, 1e-4), expected)


@pytest.mark.parametrize("options", OPTIONS, ids="-".join)
def test_advantages_with_masked_axes(options: tuple[str, str, str]) -> None:
    """The running std is set so that some axes stand under 60 % of it and some above."""
    groups = batch("random", 3)
    scores = [oracle.group_scores(g) for g in groups]
    stds = [oracle.axis_stds(s) for s in scores]
    running = [max(oracle.column(stds, axis)) for axis in range(3)]
    keep = [oracle.axis_mask(row, running, 0.6) for row in stds]
    assert {kept for row in keep for kept in row} == {True, False}

    found_std = package.axis_std(group_scores(axis_pairs(double(groups))))
    close(found_std, stds)
    mask = package.axis_mask(found_std, double(running), 0.6)
    assert mask.tolist() == keep
    expected = oracle.advantages(scores, gates(3), multipliers(3), *options, keep=keep)
    close(package_advantages(groups, options, mask=mask), expected)


@pytest.mark.parametrize("normalization", get_args(Normalization))
def test_advantages_with_a_floored_std(normalization: str) -> None:
    """The floor stands above the std of some axes and below that of others."""
    groups = batch("random", 3)
    scores = [oracle.group_scores(g) for g in groups]
    stds = [oracle.axis_stds(s) for s in scores]
    least = [oracle.mean(oracle.column(stds, axis)) for axis in range(3)]
    below = {std < floor for row in stds for std, floor in zip(row, least, strict=True)}
    assert below == {True, False}
    found = package.normalize_axes(
        group_scores(axis_pairs(double(groups))), normalization, None, 1e-4, double(least)
    )
    keep = [True] * 3
    close(found, [oracle.axis_advantages(s, normalization, keep, 1e-4, least) for s in scores])


def test_an_axis_without_variance_is_masked() -> None:
    std = double([[0.0, 0.3]])
    assert package.axis_mask(std, double([0.0, 0.3]), 0.01).tolist() == [[False, True]]
    assert oracle.axis_mask([0.0, 0.3], [0.0, 0.3], 0.01) == [False, True]


@pytest.mark.parametrize(("kind", "axes"), product(KINDS, AXES))
def test_axis_correlation(kind: str, axes: int) -> None:
    groups = batch(kind, axes)
    expected = oracle.axis_correlation([oracle.group_scores(g) for g in groups])
    scores = group_scores(axis_pairs(double(groups)))
    close(package.axis_correlation(package.axis_products(scores)), expected)
    parts = sum(package.axis_products(part) for part in scores.split(1))
    close(package.axis_correlation(parts), expected)


def test_axis_correlation_without_variance_is_zero() -> None:
    assert package.axis_correlation(torch.zeros(3, 3)).item() == 0.0
    assert oracle.axis_correlation([[[0.0] * 3] * 4] * 2) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_advantages_are_finite(kind: str) -> None:
    for axes, options in product(AXES, OPTIONS):
        groups = [group(kind, axes, seed) for seed in (1, 2, 3)]
        assert package_advantages(groups, options).isfinite().all()
