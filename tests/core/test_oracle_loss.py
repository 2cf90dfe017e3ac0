"""The package against `tests.oracle`: the loss, its gradient, and one axis as scalar GRPO."""

from __future__ import annotations

import math
from itertools import product
from typing import get_args

import pytest
import torch
from torch import Tensor

from gprl_lightning.core.advantages import aggregate_axes, normalize_axes
from gprl_lightning.core.losses import clipped_surrogate, kl_estimate, masked_sum, token_weights
from gprl_lightning.core.options import KLEstimator, LossAggregation
from gprl_lightning.core.preference import group_scores
from tests import oracle
from tests.core.examples import Tokens, close, double

WEIGHTS = 5e-8  # token weights are float32


def padded(rows: tuple, fill: float, dtype: torch.dtype = torch.float64) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([list(r) + [fill] * (width - len(r)) for r in rows], dtype=dtype)


def policy_logprobs(logits: Tensor) -> Tensor:
    """The bigram policy of `Tokens` in torch, [rows, tokens]; minus infinity outside the mask."""
    table = logits.log_softmax(-1)
    after = padded(Tokens.responses, -1, torch.long)
    before = torch.cat([torch.zeros(len(after), 1, dtype=torch.long), after[:, :-1]], 1)
    chosen = table[before.clamp(min=0), after.clamp(min=0)]
    return chosen.masked_fill(after < 0, -math.inf)


def package_loss(
    logits: Tensor,
    advantages: Tensor,
    aggregation: str = "dr_grpo",
    clip: tuple[float, float | None] = (0.2, 0.2),
    kl_coef: float = 0.02,
    estimator: str = "k3",
) -> Tensor:
    """As the training step composes it. Padding holds NaN and infinity: none may leak."""
    mask = padded(Tokens.responses, -1) >= 0
    new = policy_logprobs(logits)
    loss, _, _ = clipped_surrogate(new, padded(Tokens.old, math.nan), advantages, *clip)
    kl = kl_estimate(new, padded(Tokens.ref, math.nan), estimator)
    weights = token_weights(mask, aggregation, len(mask), int(mask.sum()), Tokens.max_tokens)
    return masked_sum(loss, weights, mask) + kl_coef * masked_sum(kl, weights, mask)


def oracle_loss(flat: list[float], advantages: list[float], **options: object) -> float:
    logits = [flat[4 * i : 4 * i + 4] for i in range(4)]
    new = oracle.bigram_logprobs(logits, Tokens.responses)
    return oracle.full_loss(
        new, Tokens.old, Tokens.ref, advantages, max_tokens=Tokens.max_tokens, **options
    )


def assert_same_loss_and_gradient(
    advantages: list[float], options: dict, torch_options: dict | None = None
) -> None:
    flat = [x for row in Tokens.logits for x in row]
    logits = double(Tokens.logits).requires_grad_()
    loss = package_loss(logits, double(advantages), **(torch_options or options))
    loss.backward()
    close(loss.detach(), oracle_loss(flat, advantages, **options), WEIGHTS)
    expected = oracle.gradient(lambda p: oracle_loss(p, advantages, **options), flat)
    close(logits.grad.flatten(), expected, WEIGHTS)


LOSSES = tuple(product(get_args(LossAggregation), get_args(KLEstimator), ((0.2, 0.2), (0.2, 0.5))))


@pytest.mark.parametrize(("aggregation", "estimator", "clip"), LOSSES)
def test_loss_and_its_gradient(aggregation: str, estimator: str, clip: tuple[float, float]) -> None:
    options = {"aggregation": aggregation, "estimator": estimator, "clip": clip, "kl_coef": 0.3}
    assert_same_loss_and_gradient(list(Tokens.advantages), options)


def test_a_clip_without_an_upper_bound_of_its_own_is_symmetric() -> None:
    options = {"clip": (0.2, 0.2)}
    assert_same_loss_and_gradient(list(Tokens.advantages), options, {"clip": (0.2, None)})


@pytest.mark.parametrize("estimator", get_args(KLEstimator))
@pytest.mark.parametrize("difference", [-25.0, -3.0, 0.0, 3.0])
def test_kl_far_from_the_reference(estimator: str, difference: float) -> None:
    """A token that the reference all but rules out must still be paid for, and pulled back."""
    new = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    value = kl_estimate(new, double([[difference]]), estimator)
    value.sum().backward()
    close(value.detach(), [[oracle.kl(0.0, difference, estimator)]])
    close(new.grad, [oracle.gradient(lambda p: oracle.kl(p[0], difference, estimator), [0.0])])


def test_surrogate_ratio_and_clip_flag_by_token() -> None:
    """Ratios 0.5, 1 and 1.5 against advantages of both signs: clipped are (A > 0, r > 1 + high) and
    (A < 0, r < 1 - low); the other two corners keep their gradient."""
    new = double([[0.5, 1.0, 1.5]] * 2).log()
    loss, ratio, clipped = clipped_surrogate(
        new, torch.zeros_like(new), double([2.0, -2.0]), 0.2, 0.3
    )
    close(ratio, [[0.5, 1.0, 1.5]] * 2)
    close(loss, [[-1.0, -2.0, -2.6], [1.6, 2.0, 3.0]])
    assert clipped.tolist() == [[False, False, True], [True, False, False]]
    for row, sign in enumerate((2.0, -2.0)):
        for token, value in enumerate((0.5, 1.0, 1.5)):
            expected = oracle.surrogate(math.log(value), 0.0, sign, 0.2, 0.3)
            assert loss[row, token].item() == pytest.approx(expected, abs=1e-12)


# One axis is scalar GRPO -------------------------------------------------------------------------

REWARDS = ([0.3, -1.2, 2.0], [1.0, 1.0, 1.0], [0.5, 0.5, -0.7])


def bradley_terry_advantages(rewards: tuple, epsilon: float) -> Tensor:
    vectors = double([[[[r, 1.0]] for r in row] for row in rewards])
    one = torch.ones(len(rewards), 1, dtype=torch.float64)
    normalized = normalize_axes(group_scores(vectors), "per_axis", None, epsilon)
    return aggregate_axes(normalized, one, one[0], "per_axis", "eigenvalue", "paper", epsilon)


@pytest.mark.parametrize("rewards", [REWARDS, ([0.0, 1.0], [3.0, -2.0])])
def test_with_one_axis_gprl_is_scalar_grpo(rewards: tuple) -> None:
    """Bradley-Terry vectors [r, 1] score s(i, j) = r_i - r_j, so the group score is
    G / (G - 1) (r_i - mean r): a z-score removes the factor but for epsilon, which it leaves
    G / (G - 1) times too small. With epsilon scaled by that factor GPRL is GRPO exactly; with the
    same epsilon the two differ by at most epsilon / (G std) of the advantage."""
    size = len(rewards[0])
    epsilon = 1e-4
    grpo = [oracle.zscore(row, epsilon) for row in rewards]
    close(bradley_terry_advantages(rewards, epsilon * size / (size - 1)), grpo, atol=1e-12)
    same = bradley_terry_advantages(rewards, epsilon)
    spread = min(s for row in rewards if (s := oracle.std(row)) > 0)
    torch.testing.assert_close(same, double(grpo), rtol=epsilon / (size * spread), atol=1e-12)
    assert not torch.allclose(same, double(grpo), rtol=1e-9, atol=0.0)


def test_with_one_axis_loss_and_gradient_are_those_of_grpo() -> None:
    """The package's loss of GPRL's advantages against the oracle's GRPO loss of the rewards."""
    epsilon = 1e-4
    rewards = REWARDS[0]
    grpo = oracle.zscore(rewards, epsilon)
    found = bradley_terry_advantages((rewards,), epsilon * 3 / 2)[0]
    flat = [x for row in Tokens.logits for x in row]
    logits = double(Tokens.logits).requires_grad_()
    loss = package_loss(logits, found)
    loss.backward()
    close(loss.detach(), oracle_loss(flat, grpo), WEIGHTS)
    expected = oracle.gradient(lambda p: oracle_loss(p, grpo), flat)
    close(logits.grad.flatten(), expected, WEIGHTS)
