"""Gains in the game against a group, and the choice of pairs: oracle and properties."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.core.game_gains import (
    GameGains,
    best_and_worst,
    game_gains,
    score_gains,
    win_gains,
)
from gprl_lightning.tracking.rule_record import rule_of, rule_record
from tests import oracle_objectives as oracle
from tests.core.baseline_groups import advantages, identity, scored_groups
from tests.core.examples import close, double

GAINS = (win_gains, score_gains)


def logits(groups: int = 4, size: int = 5) -> torch.Tensor:
    """Random skew-symmetric tables, cycles included; the last group is level."""
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(groups, size, size, generator=generator, dtype=torch.float64)
    table = 2 * (table - table.transpose(1, 2))
    table[-1] = 0
    return table


def test_gains_against_the_oracle():
    rows = logits().tolist()
    close(win_gains(logits()), [oracle.win_gains(group) for group in rows])
    close(score_gains(logits()), [oracle.score_gains(group) for group in rows])


@pytest.mark.parametrize("gains", GAINS)
def test_gains_sum_to_zero_and_a_level_group_has_none(gains):
    found = gains(logits())
    assert found.sum(1).abs().max() < 1e-12
    assert (found[-1] == 0).all() and (found[:-1] != 0).any(1).all()


@pytest.mark.parametrize("gains", GAINS)
def test_a_pure_cycle_has_no_best_answer(gains):
    """Rock, paper, scissors: every answer wins as often as it loses; nothing is to be learned."""
    cycle = double([[[0, 2, -2], [-2, 0, 2], [2, -2, 0]]])
    assert (gains(cycle) == 0).all()


def test_for_small_scores_a_chance_is_a_quarter_of_a_score():
    """σ(z) − ½ = z/4 + O(z³): SPPO and GPO part only where scores saturate."""
    table = 1e-3 * logits()
    torch.testing.assert_close(4 * win_gains(table), score_gains(table), rtol=1e-4, atol=1e-12)
    far = 10 * logits()[:-1]
    assert ((4 * win_gains(far)).abs().amax(1) < 0.5 * score_gains(far).abs().amax(1)).all()


def test_best_and_worst_are_two_responses():
    quality = double([[0, 3, 1, 3], [0, 0, 0, 0], [2, -1, -1, 0], [1, 0, 0, 1]])
    found = best_and_worst(quality).tolist()
    assert found == [[1, 0], [0, 3], [0, 2], [0, 2]]
    assert found == [list(oracle.best_and_worst(row)) for row in quality.tolist()]


def test_the_word_chooses_the_gain():
    assert torch.equal(game_gains(logits(), "probability"), win_gains(logits()))
    assert torch.equal(game_gains(logits(), "score"), score_gains(logits()))


@pytest.mark.parametrize(
    "gain, expected", [("probability", oracle.win_gains), ("score", oracle.score_gains)]
)
def test_the_rule_of_a_log_against_the_oracle(gain, expected):
    """λ and multipliers weigh the axes, τ divides; a log builds the rule again by its record."""
    groups = scored_groups()
    rows = []
    for vectors, weights in zip(groups.vectors.tolist(), groups.weights().tolist(), strict=True):
        table = [
            [
                sum(w * (a[0] * b[1] - a[1] * b[0]) for w, a, b in zip(weights, i, j, strict=True))
                / groups.tau
                for j in vectors
            ]
            for i in vectors
        ]
        rows.append(expected(table))
    close(advantages(GameGains(gain), groups), rows)
    assert rule_of(rule_record(GameGains(gain))) == GameGains(gain)


def test_by_axis_scores_add_up_to_the_gain():
    found = GameGains("score")(scored_groups(), {}, identity)
    torch.testing.assert_close(found.axis_advantages.sum(-1), found.advantages)
    assert torch.equal(found.group_scores, scored_groups().scores())
