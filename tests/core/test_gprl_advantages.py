"""The spread of the axes, which is the rule's state: its mean over iterations, and what a broken
iteration leaves of it."""

from __future__ import annotations

import math

import pytest
import torch

from gprl_lightning.core.advantages import axis_std
from gprl_lightning.core.gprl_advantages import spread
from tests.worlds import scored_rollout, tiny_module

SCORES = torch.tensor([3.0, -3.0, 1.0, -1.0])[None, :, None].repeat(2, 1, 3)  # std: √5


def observe(state, scores):
    return spread(axis_std(scores), state, lambda sums: sums)


def test_the_spread_is_a_running_mean_from_the_first_iteration():
    state, expected = {}, None
    for factor in (1.0, 0.5, 4.0):
        scores = factor * SCORES * torch.tensor([1.0, 2.0, 0.1])
        scores[1] *= 3  # the groups' mean is twice the first group's
        state = observe(state, scores)
        now = [2 * factor * width * math.sqrt(5) for width in (1, 2, 0.1)]
        pairs = zip(expected or now, now, strict=True)
        expected = [0.9 * before + 0.1 * new for before, new in pairs]
        assert state["running"].tolist() == pytest.approx(expected, rel=1e-5)
        std = axis_std(scores)
        assert std[0].tolist() == pytest.approx([value / 2 for value in now], rel=1e-5)
        assert std[1].tolist() == pytest.approx([value * 1.5 for value in now], rel=1e-5)
    first = [2 * width * math.sqrt(5) for width in (1, 2, 0.1)]
    assert state["starting"].tolist() == pytest.approx(first, rel=1e-5)


def test_a_broken_iteration_is_left_out():
    """At the start, the next one is the first."""
    state = observe({}, SCORES * torch.tensor([1.0, math.nan, 1.0]))
    state = observe(state, SCORES)
    assert state["starting"].tolist() == pytest.approx([math.sqrt(5)] * 3)
    after = observe(state, SCORES * math.nan)
    assert torch.equal(after["running"], state["running"])


def test_an_axis_far_under_its_usual_spread_gives_no_advantage():
    module = tiny_module(min_axis_std=0.5)
    assert scored_rollout(module).axis_advantages[..., 1].any()
    module.advantage_state["running"][1] *= 1e3
    advantages = scored_rollout(module).axis_advantages
    assert not advantages[..., 1].any()
    assert advantages[..., 0].any()
    assert advantages[..., 2].any()


def test_the_floor_of_a_z_score_is_the_first_iteration_s_spread():
    """A group far narrower than the first iteration's gets as much less of the advantages."""
    module, plain = tiny_module(axis_std_floor=1.0), scored_rollout(tiny_module())
    floored = scored_rollout(module)
    state = module.advantage_state
    module.advantage_state = {**state, "starting": 100 * state["running"]}
    lower = scored_rollout(module)
    assert lower.advantages.abs().max() < 0.5 * plain.advantages.abs().max()
    assert lower.advantages.abs().max() < floored.advantages.abs().max()
