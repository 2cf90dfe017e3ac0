"""Weights that move to where an axis tells the responses apart: by loops, by hand, and alive."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from gprl_lightning.config.validation import validate
from gprl_lightning.core.contrast_weights import START, ContrastWeights, contrast_weights
from gprl_lightning.core.gprl_advantages import GPRLAdvantages
from tests import oracle
from tests.composing import composed
from tests.core.baseline_groups import AXES, GROUPS, identity, scored_groups
from tests.core.examples import double

RULE = ContrastWeights(GPRLAdvantages())


def looped(weights, stds, start):
    found = []
    for row, std in zip(weights, stds, strict=True):
        moved = [w * s / u if u else 0.0 for w, s, u in zip(row, std, start, strict=True)]
        total = math.fsum(map(abs, moved))
        kept = math.fsum(map(abs, row))
        found.append([m * kept / total for m in moved] if total else list(row))
    return found


def test_by_loops():
    weights = [[0.3, 0.7, -1.0], [0.5, 0.5, 0.0], [2.0, 1.0, 1.0]]
    stds = [[1.0, 0.5, 0.2], [0.0, 3.0, 1.0], [0.0, 0.0, 0.0]]
    start = [2.0, 0.5, 0.0]
    found = contrast_weights(double(weights), double(stds), double(start))
    torch.testing.assert_close(found, double(looped(weights, stds, start)), rtol=0, atol=1e-14)
    assert found[2].tolist() == weights[2], "nothing is told apart: λ stays"


def test_a_criterion_that_all_meet_gives_its_weight_to_the_others():
    """By hand: λ = (3, 1); the first axis has lost its spread, the second has twice its own."""
    found = contrast_weights(double([[3.0, 1.0]]), double([[0.0, 2.0]]), double([1.0, 1.0]))
    assert found.tolist() == [[0.0, 4.0]]


def test_the_whole_rule_against_the_oracle():
    groups = scored_groups()
    scores = groups.scores().tolist()
    stds = [oracle.axis_stds(s) for s in scores]
    start = [oracle.mean(oracle.column(stds, axis)) for axis in range(AXES)]
    weights = looped(groups.eigenvalues.tolist(), stds, start)
    expected = oracle.advantages(scores, weights, groups.multipliers.tolist())
    found = RULE(groups, {}, identity)
    torch.testing.assert_close(found.advantages, double(expected), rtol=0, atol=1e-6)
    assert found.state.keys() == {"running", "starting", START}
    assert found.state[START].tolist() == pytest.approx(start)


def test_it_is_alive_and_keeps_its_start():
    groups = scored_groups()
    first = RULE(groups, {}, identity)
    plain = GPRLAdvantages()(groups, {}, identity)
    assert not torch.allclose(first.advantages, plain.advantages)
    narrow = groups.vectors.clone()
    narrow[:, :, 0] *= 0.1  # of both numbers: scores fall to a hundredth
    later = replace(groups, vectors=narrow)
    second = RULE(later, first.state, identity)
    assert torch.equal(second.state[START], first.state[START])
    assert (second.advantages - first.advantages).abs().mean() > 0.05
    z = plain.axis_advantages[..., 1] * (groups.eigenvalues.sum(1) * groups.multipliers[1])[:, None]
    assert torch.allclose(second.advantages, z, atol=0.1), "nearly all weight is the second axis's"


def test_halves_on_two_processes_agree_with_the_whole():
    groups = scored_groups()
    whole = RULE(groups, {}, identity)
    names = ("vectors", "eigenvalues", "logprobs", "ref_logprobs", "lengths", "finished", "uids")
    halves = [
        replace(groups, **{name: getattr(groups, name)[part] for name in names})
        for part in (slice(0, 1), slice(1, GROUPS))
    ]
    sums = []

    def record(statistics):
        sums.append(statistics)
        return statistics

    for half in halves:
        RULE(half, {}, record)
    calls = len(sums) // 2
    totals = iter([a + b for a, b in zip(sums[:calls], sums[calls:], strict=True)])
    found = RULE(halves[1], {}, lambda _: next(totals))
    torch.testing.assert_close(found.advantages, whole.advantages[1:])


def test_it_is_one_word_and_off_by_default():
    chosen = validate(composed("algorithm/advantage=contrast")).algorithm.advantage
    assert chosen["_target_"].endswith("ContrastWeights")
    assert chosen["rule"]["_target_"].endswith("GPRLAdvantages")
    default = validate(composed()).algorithm.advantage
    assert default["_target_"].endswith("GPRLAdvantages")
