"""Rotations of the axes: scores stay, advantages do not, and the canonical axes do not either."""

from __future__ import annotations

import cmath
import math

import pytest
import torch

from gprl_lightning.core.axis_identification import (
    advantage_correlations,
    advantages_of,
    correlation,
)
from gprl_lightning.core.axis_rotation import (
    joint_rotation,
    principal_rotation,
    random_rotation,
    rotated,
    score_matrices,
)
from gprl_lightning.core.preference import scores_against


def model_of(axes: int, pairs: int = 200, seed: int = 0, dtype=torch.float64):
    """Unit vectors of pairs of responses, and a gate that depends on the prompt."""
    g = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.3, 1.0, axes)[:, None]
    v = torch.randn(pairs, 2, axes, 2, generator=g, dtype=torch.float64) * spread
    v = v / v.flatten(2).norm(dim=-1)[:, :, None, None]
    gate = torch.softmax(torch.randn(pairs, axes, generator=g, dtype=torch.float64), -1)
    return v.to(dtype), gate.to(dtype)


def axis_scores(v, gate):
    """λ_l s_l of the first response against the second: [pairs, axes]."""
    return scores_against(v[:, :1], v[:, 1:])[:, 0, 0] * gate


def oracle_scores(v, gate, q) -> list[list[float]]:
    """The rotated axes' weighted scores in plain loops: Im(z_i* z_j) of each new axis."""
    found = []
    for pair, weights in zip(v.tolist(), gate.tolist(), strict=True):
        sides = []
        for side in pair:
            z = [math.sqrt(w) * complex(*xy) for w, xy in zip(weights, side, strict=True)]
            sides.append([sum(a * b for a, b in zip(row, z, strict=True)) for row in q.tolist()])
        found.append([(a.conjugate() * b).imag for a, b in zip(*sides, strict=True)])
    return found


@pytest.mark.parametrize("axes", [1, 2, 3, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_stay_as_they_were(axes, dtype):
    v, gate = model_of(axes, dtype=dtype)
    total = axis_scores(v, gate).sum(-1)
    for seed in range(5):
        q = random_rotation(axes, torch.Generator().manual_seed(seed))
        assert (q @ q.mH - torch.eye(axes)).abs().max() < 1e-12
        turned, weights = rotated(v, gate[:, None], q)
        assert turned.dtype == weights.dtype == dtype
        found = axis_scores(turned, weights[:, 0])
        assert (found.sum(-1) - total).abs().max() < 1e-6
        expected = torch.tensor(oracle_scores(v, gate, q), dtype=dtype)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        if axes > 1:
            assert (found - axis_scores(v, gate)).abs().max() > 0.05


def test_weights_are_mixed_as_the_axes_are():
    _, gate = model_of(3)
    v = torch.zeros(200, 2, 3, 2).double()
    q = random_rotation(3, torch.Generator().manual_seed(1))
    weights = rotated(v, gate[:, None], q)[1][:, 0]
    for row, old in zip(weights.tolist(), gate.tolist(), strict=True):
        expected = [sum(abs(a) ** 2 * b for a, b in zip(r, old, strict=True)) for r in q.tolist()]
        assert row == pytest.approx(expected, abs=1e-12)
        assert sum(row) == pytest.approx(1)
    same, weights = rotated(v + 1, gate[:, None], torch.eye(3).to(q))
    torch.testing.assert_close(same, v + 1)
    torch.testing.assert_close(weights[:, 0], gate)


def test_random_rotations_prefer_no_axis():
    """Of a Haar unitary the mean of |Q_lm|² is 1/k everywhere, and the mean of Q is 0."""
    g = torch.Generator().manual_seed(0)
    many = torch.stack([random_rotation(3, g) for _ in range(4000)])
    assert (many.abs().square().mean(0) - 1 / 3).abs().max() < 0.02
    assert many.mean(0).abs().max() < 0.03


@pytest.mark.parametrize("axes", [2, 3, 5])
def test_the_matrices_hold_the_scores(axes):
    v, gate = model_of(axes)
    b = score_matrices(v, gate)
    assert (b - b.mH).abs().max() < 1e-15
    q = random_rotation(axes, torch.Generator().manual_seed(2))
    for turn in (torch.eye(axes).to(q), q):
        found = (turn @ b @ turn.mH).diagonal(dim1=1, dim2=2).real
        expected = torch.tensor(oracle_scores(v, gate, turn), dtype=torch.float64)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("canonical", [principal_rotation, joint_rotation])
@pytest.mark.parametrize("axes", [2, 3, 5])
def test_canonical_axes_do_not_depend_on_how_the_model_was_turned(canonical, axes):
    v, gate = model_of(axes)
    b = score_matrices(v, gate)
    q = canonical(b)
    expected = (q @ b @ q.mH).diagonal(dim1=1, dim2=2).real
    turn = random_rotation(axes, torch.Generator().manual_seed(5))
    other = turn @ b @ turn.mH
    q = canonical(other)
    assert (q @ q.mH - torch.eye(axes)).abs().max() < 1e-9
    found = (q @ other @ q.mH).diagonal(dim1=1, dim2=2).real
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_principal_axes_are_those_of_the_second_moment():
    """No direction takes part in more of the score than the first, nor in less than the last."""
    v, gate = model_of(3)
    b = score_matrices(v, gate)
    taking_part = [(b @ q.conj()).abs().square().sum(-1).mean() for q in principal_rotation(b)]
    assert taking_part == sorted(taking_part, reverse=True)
    for seed in range(20):
        for q in random_rotation(3, torch.Generator().manual_seed(seed)):
            part = (b @ q.conj()).abs().square().sum(-1).mean()
            assert taking_part[-1] - 1e-12 <= part <= taking_part[0] + 1e-12


def test_joint_axes_hold_more_of_the_squares_than_any_others():
    v, gate = model_of(4, pairs=100)
    b = score_matrices(v, gate)

    def held(q):
        return float((q @ b @ q.mH).diagonal(dim1=1, dim2=2).real.square().sum(-1).mean())

    joint = joint_rotation(b)
    best = held(joint)
    assert best >= held(principal_rotation(b))
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        assert held(random_rotation(4, g)) < best
        step = random_rotation(4, g)  # near by, too: a maximum
        small = torch.linalg.matrix_exp(0.02 * (step - step.mH))
        assert held(small @ joint) <= best + 1e-12


def test_joint_axes_are_found_where_there_are_some():
    """Three axes that score by themselves, mixed by a rotation, come back, the largest first."""
    g = torch.Generator().manual_seed(3)
    diagonal = torch.randn(500, 3, generator=g).double() * torch.tensor([1.0, 2.0, 3.0])
    turn = random_rotation(3, g)
    q = joint_rotation(turn.mH @ torch.diag_embed(diagonal).to(turn) @ turn)
    product = (q @ turn.mH).abs()
    torch.testing.assert_close(product, torch.eye(3).double().flip(0), atol=1e-6, rtol=0)


def oracle_advantages(v, gate, q) -> list[float]:
    """Â of one group by plain loops: rotate, score, z-score each axis, weigh, add."""
    size, axes = len(v), len(gate)
    z = [
        [
            sum(q[a][m] * math.sqrt(gate[m]) * complex(*v[i][m]) for m in range(axes))
            for a in range(axes)
        ]
        for i in range(size)
    ]
    weights = [sum(abs(q[a][m]) ** 2 * gate[m] for m in range(axes)) for a in range(axes)]
    total = [0.0] * size
    for a in range(axes):
        scores = [
            sum((z[i][a].conjugate() * z[j][a]).imag for j in range(size))
            / (weights[a] * (size - 1))
            for i in range(size)
        ]
        mean = sum(scores) / size
        std = math.sqrt(sum((s - mean) ** 2 for s in scores) / size)
        for i, s in enumerate(scores):
            total[i] += weights[a] * (s - mean) / (std + 1e-4)
    return total


def groups_of(axes: int):
    v, gate = model_of(axes, pairs=40, seed=1)
    g = torch.Generator().manual_seed(2)
    shape = (40, 6, axes, 2)
    first = torch.nn.functional.normalize(
        torch.randn(shape, generator=g).double().flatten(2), dim=-1
    )
    return [(first.view(shape)[:25], gate[:25]), (v[25:], gate[25:])]


def test_advantages_of_rotated_axes():
    groups = groups_of(3)
    q = random_rotation(3, torch.Generator().manual_seed(7))
    found = advantages_of(groups, rotation=q)
    expected = [
        a
        for v, gate in groups
        for one, weights in zip(v.tolist(), gate.tolist(), strict=True)
        for a in oracle_advantages(one, weights, q.tolist())
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


def test_one_z_score_is_blind_to_rotations_and_per_axis_is_not():
    groups = groups_of(3)
    q = random_rotation(3, torch.Generator().manual_seed(7))
    same = advantages_of(groups, "global", q) - advantages_of(groups, "global")
    assert same.abs().max() < 1e-9
    phases = torch.diag(torch.tensor([cmath.exp(1j * t) for t in (0.3, 1.0, 2.0)])).to(q)
    order = torch.eye(3).flip(0).to(q)
    found = advantage_correlations(groups, [torch.eye(3).to(q), phases, order, q])
    torch.testing.assert_close(found[:3], torch.ones(3).double(), atol=1e-9, rtol=0)
    assert found[3] < 0.99
    assert correlation(torch.ones(3), torch.tensor([1.0, 2.0, 3.0])) == 0.0
