"""CISPO and GSPO against `tests.oracle` in float64, and the reach and options of every loss."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gprl_lightning.core.batch import Minibatch
from gprl_lightning.core.gspo import GSPO
from gprl_lightning.core.losses import zero_outside
from gprl_lightning.core.policy_loss import CISPO, Clip, PolicyLoss, slope_of
from tests import oracle
from tests.core.examples import Tokens, close, double
from tests.core.test_oracle_loss import padded

ADVANTAGES = list(Tokens.advantages)
LOSSES = [Clip(), Clip(0.05, 0.1), CISPO(), CISPO(0.1), GSPO(0.05, 0.1), GSPO()]


def minibatch() -> Minibatch:
    """The bigram example's rows; padding holds NaN: none may leak."""
    mask = padded(Tokens.responses, -1) >= 0
    old, reference = padded(Tokens.old, math.nan), padded(Tokens.ref, math.nan)
    empty = torch.zeros(len(mask), 1, dtype=torch.long)
    ids = torch.zeros(mask.shape, dtype=torch.long)
    advantages, importance = double(ADVANTAGES), torch.ones_like(old)
    return Minibatch(empty, empty.bool(), ids, mask, old, reference, advantages, importance)


def logprobs_near(batch: Minibatch, size: float = 0.3) -> Tensor:
    noise = torch.randn(batch.old_logprobs.shape, generator=torch.Generator().manual_seed(0))
    moved = batch.old_logprobs + size * noise.double()
    return zero_outside(batch.response_mask, moved).requires_grad_()


def rows_of(values: Tensor, batch: Minibatch) -> list[list[float]]:
    mask = batch.response_mask
    return [row[keep].tolist() for row, keep in zip(values, mask, strict=True)]


@pytest.mark.parametrize("loss", [GSPO(0.05, 0.1), GSPO(0.5, 0.5), GSPO()])
def test_gspo(loss: GSPO) -> None:
    batch = minibatch()
    new = logprobs_near(batch)
    terms = loss(new, batch)
    zero_outside(batch.response_mask, terms.loss).sum().backward()
    gradients = rows_of(new.grad, batch)
    rows = zip(rows_of(new.detach(), batch), Tokens.old, ADVANTAGES, strict=True)
    for index, (row, old, advantage) in enumerate(rows):

        def value(point: list[float], old=old, advantage=advantage) -> float:
            return oracle.sequence_surrogate(point, old, advantage, loss.epsilon, loss.epsilon_high)

        for token in range(len(row)):
            assert float(terms.loss[index, token].detach()) == pytest.approx(value(row), abs=1e-12)
        expected = [len(row) * g for g in oracle.gradient(value, row, 1e-6)]
        assert gradients[index] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("loss", [CISPO(5.0), CISPO(0.1), CISPO(0.0)])
def test_cispo(loss: CISPO) -> None:
    """The ratio weighs the gradient and has none of its own: clipped tokens keep theirs."""
    batch = minibatch()
    new = logprobs_near(batch)
    terms = loss(new, batch)
    zero_outside(batch.response_mask, terms.loss).sum().backward()
    gradients, clipped = rows_of(new.grad, batch), rows_of(terms.clipped, batch)
    rows = zip(rows_of(new.detach(), batch), Tokens.old, ADVANTAGES, strict=True)
    for index, (row, old, advantage) in enumerate(rows):
        for token, (here, before) in enumerate(zip(row, old, strict=True)):

            def value(point: list[float], before=before, advantage=advantage, here=here) -> float:
                return oracle.cispo_term(point[0], before, advantage, loss.epsilon_high, here)

            found = float(terms.loss[index, token].detach())
            assert found == pytest.approx(value([here]), abs=1e-12)
            slope = oracle.gradient(value, [here])[0]
            assert gradients[index][token] == pytest.approx(slope, abs=1e-9)
            assert clipped[index][token] == (math.exp(here - before) > 1 + loss.epsilon_high)
            assert (slope != 0) == (advantage != 0)


def test_clip_is_the_surrogate() -> None:
    batch = minibatch()
    new = logprobs_near(batch).detach()
    found = rows_of(Clip(0.05, 0.1)(new, batch).loss, batch)
    rows = zip(rows_of(new, batch), Tokens.old, ADVANTAGES, strict=True)
    for index, (row, old, advantage) in enumerate(rows):
        pairs = zip(row, old, strict=True)
        expected = [oracle.surrogate(a, b, advantage, 0.05, 0.1) for a, b in pairs]
        assert found[index] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_reach_is_what_the_loss_says(loss: PolicyLoss) -> None:
    """A term moves with another token's log-probability if and only if it says so."""
    batch = minibatch()
    new = logprobs_near(batch, 1e-5).detach()
    row = max(range(len(new)), key=lambda i: int(batch.response_mask[i].sum()))
    moved = new.clone()
    moved[row, 0] += 1e-6
    before, after = (loss(values, batch).loss[row, 1] for values in (new, moved))
    assert bool(before != after) == (loss.reach == "sequence")


@pytest.mark.parametrize(
    ("loss", "changed"),
    [
        (Clip(), {"epsilon": 0.01}),
        (Clip(), {"epsilon_high": 0.01}),
        (CISPO(), {"epsilon_high": 0.01}),
        (GSPO(), {"epsilon": 0.1}),
        (GSPO(), {"epsilon_high": 0.1}),
    ],
    ids=str,
)
def test_every_option_acts(loss: PolicyLoss, changed: dict[str, float]) -> None:
    batch = minibatch()
    new = logprobs_near(batch).detach()
    one, other = (rows_of(f(new, batch).loss, batch) for f in (loss, replace(loss, **changed)))
    assert one != other


def test_a_loss_over_the_sequence_tells_no_slope() -> None:
    batch = minibatch()

    def objective(logprobs: Tensor, rows: Minibatch) -> Tensor:
        return Clip()(logprobs, rows).loss

    weights = torch.ones_like(batch.old_logprobs)
    assert slope_of(objective, batch, weights, "sequence") is None
    assert slope_of(objective, batch, weights, "token") is not None


@pytest.mark.parametrize("loss", [x for x in LOSSES if x.reach == "token"], ids=str)
@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_the_slope_is_the_loss_s_derivative_however_it_is_cut(loss: PolicyLoss, chunk: int) -> None:
    """Chunks end inside of rows; the log-probabilities after them are not known yet."""
    batch = minibatch()
    new = logprobs_near(batch)
    mask = batch.response_mask
    weights = torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)).double()
    weights = torch.where(mask, weights, 0.0)

    def objective(logprobs: Tensor, rows: Minibatch) -> Tensor:
        return loss(logprobs, rows).loss

    (zero_outside(mask, objective(new, batch)) * weights).sum().backward()
    slope = slope_of(objective, batch, weights, loss.reach)
    flat = new.detach()[mask]
    assert slope is not None
    parts = [slice(i, i + chunk) for i in range(0, len(flat), chunk)]
    found = torch.cat([slope(flat[part], part) for part in parts])
    close(found, new.grad[mask].tolist(), 1e-14)
