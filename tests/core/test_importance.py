"""Importance weights against the oracle, and a planted mismatch whose bias they take out."""

from __future__ import annotations

import math
from itertools import combinations, product
from typing import get_args

import pytest
import torch
from torch import Tensor

from gprl_lightning.core.importance import ImportanceCorrection, weights
from gprl_lightning.core.losses import clipped_surrogate
from gprl_lightning.core.options import Correction, CorrectionLevel
from tests import oracle

OLD = [[-1.0, -2.0, -0.5], [-0.2, -1.5], [-3.0]]
SAMPLED = [[-1.4, -1.1, -0.5], [-1.3, -1.4], [-3.0]]
MODES, LEVELS = get_args(Correction), get_args(CorrectionLevel)
MASK = torch.tensor([[True] * 3, [True, True, False], [True, False, False]])


def padded(rows: list[list[float]], fill: float) -> Tensor:
    return torch.tensor([[*r, *[fill] * (3 - len(r))] for r in rows], dtype=torch.float64)


def found(mode: str = "truncate", level: str = "token", low: float = 0.5, high: float = 1.3):
    # Padding that is not a number must not leak.
    args = padded(OLD, math.nan), padded(SAMPLED, math.inf), MASK
    return weights(*args, mode, level, low, high)  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "level"), product(MODES, LEVELS))
@pytest.mark.parametrize(("low", "high"), [(0.0, 2.0), (0.5, 1.3), (0.0, math.inf), (1.0, 1.0)])
def test_the_weights_are_the_oracles(mode, level, low, high):
    expected = oracle.importance_weights(OLD, SAMPLED, mode, level, low, high)
    torch.testing.assert_close(
        found(mode, level, low, high)[MASK],
        torch.tensor([w for row in expected for w in row], dtype=torch.float64),
        atol=1e-12,
        rtol=1e-12,
    )


def test_every_option_acts():
    settings = [{}, {"mode": "none"}, {"mode": "mask"}, {"level": "sequence"}]
    settings += [{"low": 0.1}, {"high": 1.4}]
    for one, other in combinations(settings, 2):
        assert not torch.equal(found(**one), found(**other)), (one, other)


@pytest.mark.parametrize(("mode", "level"), product(MODES, LEVELS))
def test_the_weight_is_exactly_one_where_nothing_is_to_correct(mode, level):
    old = torch.randn(4, 3)
    mask = torch.ones_like(old, dtype=torch.bool)
    ones = weights(old, old.clone(), mask, mode, level, 0.5, 2.0)
    assert torch.equal(ones, torch.ones_like(old))
    outside = weights(old, old + 9, ~mask, mode, level, 0.0, math.inf)
    assert torch.equal(outside, torch.ones_like(old))


def test_a_gap_beyond_all_bounds_stays_finite():
    old, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    far = weights(old, old - 500, mask, "truncate", "sequence", 0.0, math.inf)
    assert far.isfinite().all()
    assert weights(old, old + 500, mask, "mask", "token", 0.1, 2.0).eq(0).all()


def test_the_tokens_that_a_bound_caught_are_told():
    args = padded(OLD, math.nan), padded(SAMPLED, math.inf), MASK
    # Gaps are .4, -.9, 0 | 1.1, -.1 | 0: exp(.4) and exp(1.1) lie above 1.3, exp(-.9) below .5.
    caught = [[True, True, False], [True, False, False], [False] * 3]
    for mode in ("truncate", "mask"):
        assert ImportanceCorrection(mode, "token", 0.5, 1.3).bounded(*args).tolist() == caught
    assert not ImportanceCorrection("none", "token", 0.5, 1.3).bounded(*args).any()


# A mismatch that was planted: all responses are enumerated, so an expectation is exact. -----------

WORDS, LENGTH = 3, 2
RESPONSES = torch.tensor(list(product(range(WORDS), repeat=LENGTH)))
POLICY = torch.tensor([[0.3, -0.8, 0.5], [0.2, 0.4, -0.3], [-0.6, 0.1, 0.7]], dtype=torch.float64)
ENGINE = POLICY + torch.tensor(
    [[0.5, -0.3, 0.0], [-0.4, 0.2, 0.6], [0.0, 0.3, -0.5]], dtype=torch.float64
)
# Of each response: nothing that is symmetric in the tokens.
ADVANTAGES = torch.tensor([1.0, -0.4, 0.3, -1.2, 0.8, 0.1, -0.6, 0.9, -0.9], dtype=torch.float64)


def logprobs_of(table: Tensor, responses: Tensor) -> Tensor:
    before = torch.cat([torch.zeros(len(responses), 1, dtype=torch.long), responses[:, :-1]], 1)
    return table.log_softmax(-1)[before, responses]


def expected_gradient(
    drawn_from: Tensor, mode: str, level: str, high: float = math.inf, tokens: int = LENGTH
) -> Tensor:
    """The gradient of the policy loss in expectation over responses of ``drawn_from``."""
    responses = RESPONSES[:, :tokens]
    table = POLICY.clone().requires_grad_()
    new, sampled = logprobs_of(table, responses), logprobs_of(drawn_from, responses)
    mask = torch.ones_like(responses, dtype=torch.bool)
    loss, _, _ = clipped_surrogate(new, new.detach(), ADVANTAGES, 0.2, None)
    weight = weights(new.detach(), sampled, mask, mode, level, 0.0, high)  # type: ignore[arg-type]
    # Responses that share the tokens share their probability.
    share = sampled.sum(1).exp() / (len(RESPONSES) // WORDS**tokens)
    (share[:, None] * weight * loss).sum().backward()
    assert table.grad is not None
    return table.grad


def bias(mode: str, level: str, **options: float) -> float:
    """Of the gradient, relative to that of the policy's own responses."""
    tokens = int(options.get("tokens", LENGTH))
    own = expected_gradient(POLICY, "none", "token", tokens=tokens)
    other = expected_gradient(ENGINE, mode, level, options.get("high", math.inf), tokens)
    return float((other - own).norm() / own.norm())


def test_a_planted_mismatch_biases_the_gradient_and_the_correction_takes_it_out():
    assert bias("none", "token") > 0.2
    assert bias("truncate", "sequence") < 1e-12
    assert bias("mask", "sequence") < 1e-12
    # A token's own ratio does not know how likely its prefix was: exact for one token alone.
    assert bias("none", "token", tokens=1) > 0.1
    assert bias("truncate", "token", tokens=1) < 1e-12
    assert 1e-3 < bias("truncate", "token") < bias("none", "token")


def test_a_bound_gives_back_part_of_the_bias():
    tight, wide = (bias("truncate", "sequence", high=high) for high in (1.1, 1.5))
    assert 1e-12 < wide < tight < bias("none", "token")
