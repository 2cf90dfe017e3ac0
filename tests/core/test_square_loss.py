"""SPPO and GPO: targets against loops in float64, the choice of pairs, and no dead option."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.core.square_loss import GPO, SPPO, best_and_worst, square_loss
from tests import oracle_objectives as oracle
from tests.core.examples import close, double


def logits(groups: int = 4, size: int = 5) -> torch.Tensor:
    """Random skew-symmetric tables, cycles included; the last group is level."""
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(groups, size, size, generator=generator, dtype=torch.float64)
    table = 2 * (table - table.transpose(1, 2))
    table[-1] = 0
    return table


@pytest.mark.parametrize("beta", [1e-3, 0.5])
def test_targets_against_the_oracle(beta):
    table = logits()
    rows = table.tolist()
    close(SPPO(beta)(table), [oracle.sppo_targets(g, beta) for g in rows])
    close(SPPO(beta, "hard")(table), [oracle.sppo_hard_targets(g, beta) for g in rows])
    close(GPO(beta)(table), [oracle.gpo_targets(g, beta) for g in rows])


@pytest.mark.parametrize("targets", [SPPO(), SPPO(probability="hard"), GPO()])
def test_targets_sum_to_zero_and_a_level_group_has_none(targets):
    found = targets(logits())
    assert found.sum(1).abs().max() < 1e-9
    assert (found[-1] == 0).all() and (found[:-1] != 0).any(1).all()


def test_a_pure_cycle_has_no_best_answer():
    """Rock, paper, scissors: every answer wins as often as it loses; nothing is to be learned."""
    cycle = double([[[0, 2, -2], [-2, 0, 2], [2, -2, 0]]])
    for targets in (SPPO(), SPPO(probability="hard"), GPO()):
        assert (targets(cycle) == 0).all()


def test_for_small_scores_sppo_is_a_quarter_of_gpo():
    """σ(z) − ½ = z/4 + O(z³): the two methods part only where scores saturate."""
    table = 1e-3 * logits()
    torch.testing.assert_close(4 * SPPO()(table), GPO()(table), rtol=1e-4, atol=1e-9)
    far = 10 * logits()[:-1]
    assert ((4 * SPPO()(far)).abs().amax(1) < 0.5 * GPO()(far).abs().amax(1)).all()


def test_every_option_is_alive():
    table = logits()
    for one, other in (
        (SPPO(1e-3), SPPO(2e-3)),
        (SPPO(), SPPO(probability="hard")),
        (GPO(1e-3), GPO(2e-3)),
        (SPPO(), GPO()),
    ):
        assert (one(table) - other(table)).abs().max() > 1


def test_best_and_worst_are_two_responses():
    quality = double([[0, 3, 1, 3], [0, 0, 0, 0], [2, -1, -1, 0], [1, 0, 0, 1]])
    found = best_and_worst(quality).tolist()
    assert found == [[1, 0], [0, 3], [0, 2], [0, 2]]
    assert found == [list(oracle.best_and_worst(row)) for row in quality.tolist()]


def test_square_loss_pulls_to_the_target():
    ratios = double([[1.0, -3.0]]).requires_grad_()
    loss = square_loss(ratios, double([[2.0, -2.0]]))
    assert loss.tolist() == [[1.0, 1.0]]
    (slope,) = torch.autograd.grad(loss.sum(), ratios)
    assert slope.tolist() == [[-2.0, -2.0]]


def test_the_best_answer_by_the_targets_wins_most_often():
    table = logits()[:-1]
    best, worst = best_and_worst(SPPO()(table)).T
    chance = torch.sigmoid(table).mean(2)
    assert torch.equal(best, chance.argmax(1)) and torch.equal(worst, chance.argmin(1))
