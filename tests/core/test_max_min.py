"""The worst of the axes: by loops, by hand, and alive."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gprl_lightning.config.validation import validate
from gprl_lightning.core.gprl_advantages import GPRLAdvantages
from gprl_lightning.core.max_min import MaxMin
from tests import oracle
from tests.composing import composed
from tests.core.baseline_groups import AXES, GROUPS, SIZE, advantages, identity, scored_groups
from tests.core.examples import close, double


def looped(scores, weights, epsilon):
    found = []
    for rows, row_weights in zip(scores, weights, strict=True):
        columns = [oracle.column(rows, axis) for axis in range(len(row_weights))]
        counted = [
            oracle.zscore(values, epsilon)
            for values, weight in zip(columns, row_weights, strict=True)
            if weight and oracle.std(values)
        ]
        worst = [min(of_one) for of_one in zip(*counted, strict=True)] or [0.0] * len(rows)
        found.append(oracle.zscore(worst, epsilon))
    return found


@pytest.mark.parametrize("epsilon", [1e-4, 0.3])
def test_against_the_oracle(epsilon):
    given = scored_groups()
    expected = looped(given.scores().tolist(), given.weights().tolist(), epsilon)
    close(advantages(MaxMin(epsilon), given), expected)


def test_a_response_good_at_one_axis_alone_is_the_worst():
    """Rewards (3, 0), (0, 3), (1, 1): each specialist is last on the other's axis."""
    rewards = double([[[3.0, 0.0], [0.0, 3.0], [1.0, 1.0]]])
    vectors = torch.stack([rewards, torch.ones_like(rewards)], -1)
    rows = slice(0, 1)
    given = scored_groups()
    given = replace(
        given, vectors=vectors, eigenvalues=given.eigenvalues[rows], uids=given.uids[rows],
        logprobs=given.logprobs[rows, :3], ref_logprobs=given.ref_logprobs[rows, :3],
        lengths=given.lengths[rows, :3], finished=given.finished[rows, :3],
    )  # fmt: skip
    found = advantages(MaxMin(1e-9), given)[0].tolist()
    assert found == pytest.approx([-(0.5**0.5), -(0.5**0.5), 2**0.5], abs=1e-6)


def test_an_axis_of_weight_0_or_without_spread_caps_nothing():
    given = scored_groups()
    one = replace(given, eigenvalues=double([[1.0, 0.0]] * GROUPS))
    level = given.vectors.clone()
    level[:, :, 1] = level[:, :1, 1]
    first = given.vectors[:, :, :1]
    ones = double([[1.0]] * GROUPS)
    alone = replace(given, vectors=first, eigenvalues=ones, multipliers=double([1.0]))
    expected = advantages(MaxMin(), alone)
    close(advantages(MaxMin(), one), expected.tolist())
    close(advantages(MaxMin(), replace(given, vectors=level)), expected.tolist())
    nothing = replace(given, eigenvalues=torch.zeros(GROUPS, AXES).double())
    assert (advantages(MaxMin(), nothing) == 0).all()


def test_weights_change_nothing_else_and_a_broken_axis_is_seen():
    given = scored_groups()
    tilted = replace(given, eigenvalues=double([[0.9, 0.1]] * GROUPS))
    assert torch.equal(advantages(MaxMin(), given), advantages(MaxMin(), tilted))
    broken = given.vectors.clone()
    broken[0, 0, 0] = torch.nan
    assert advantages(MaxMin(), replace(given, vectors=broken))[0].isnan().all()


def test_it_is_alive_and_reports_z_scores():
    given = scored_groups()
    assert (advantages(MaxMin(), given) - advantages(GPRLAdvantages(), given)).abs().max() > 0.1
    assert (advantages(MaxMin(), given) - advantages(MaxMin(0.3), given)).abs().max() > 1e-3
    found = MaxMin()(given, {}, identity)
    assert found.axis_advantages.shape == (GROUPS, SIZE, AXES)
    assert found.axis_advantages.mean(1).abs().max() < 1e-9


@pytest.mark.parametrize("word", ["algorithm/advantage=max_min", "algorithm=max_min"])
def test_the_word_composes(word):
    config = validate(composed(word))
    assert config.algorithm.advantage["_target_"].endswith("MaxMin")


def test_mo_grpo_is_the_plain_sum_of_z_scores():
    """`ablation=mo_grpo`: Σ_l z_l, whatever λ; GDPO as published is the same, whitened."""
    options = {name: validate(composed(f"ablation={name}")) for name in ("mo_grpo", "gdpo_unit")}
    given = replace(scored_groups(), multipliers=double([1.0, 1.0]))
    scores = given.scores().tolist()
    by_axis = [[oracle.zscore(oracle.column(s, a), 1e-4) for a in range(AXES)] for s in scores]
    sums = [[sum(row) for row in zip(*columns, strict=True)] for columns in by_axis]
    flat = [value for row in sums for value in row]
    spread = oracle.std(flat) + 1e-4
    whitened = [[(value - oracle.mean(flat)) / spread for value in row] for row in sums]
    for name, expected in (("mo_grpo", sums), ("gdpo_unit", whitened)):
        config = options[name]
        chosen = config.algorithm
        rule = GPRLAdvantages(
            normalization=chosen.normalization, weighting=chosen.weighting,
            min_axis_std=chosen.min_axis_std, epsilon=chosen.advantage_epsilon,
        )  # fmt: skip
        assert not config.drift.enabled
        close(advantages(rule, given), expected)
