"""LamPO, VPO, REINFORCE++ and the over-long filter: oracles, properties, and no dead option."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gprl_lightning.core.gprl_advantages import GPRLAdvantages
from gprl_lightning.core.lampo import LamPO
from gprl_lightning.core.overlong_filter import OverlongFilter
from gprl_lightning.core.reinforce_pp import ReinforcePP
from gprl_lightning.core.vpo import VPO, draw_weightings, set_contributions
from tests import oracle_objectives as oracle
from tests.core.baseline_groups import AXES, GROUPS, SIZE, advantages, identity, scored_groups
from tests.core.examples import close, double


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
@pytest.mark.parametrize("per_token", [True, False])
def test_lampo_against_the_oracle(temperature, per_token):
    given = scored_groups()
    confidence = given.logprobs / given.lengths if per_token else given.logprobs
    expected = [
        oracle.lampo(pairs, weights, row, temperature, 1e-4)
        for pairs, weights, row in zip(
            given.pairs().tolist(), given.weights().tolist(), confidence.tolist(), strict=True
        )
    ]
    close(advantages(LamPO(temperature, per_token), given), expected)


def test_lampo_of_an_indifferent_policy_is_grpo():
    """Equal log-probabilities: every pair weighs ½, and what is left is a z-score."""
    level = replace(scored_groups(), logprobs=torch.full((GROUPS, SIZE), -20.0).double())
    plain = GPRLAdvantages(normalization="global", epsilon=1e-9, min_axis_std=0.0)
    found = advantages(LamPO(epsilon=1e-9), level)
    torch.testing.assert_close(found, advantages(plain, level), atol=1e-6, rtol=1e-6)
    assert found.sum(1).abs().max() < 1e-9


def test_lampo_learns_most_from_pairs_in_the_wrong_order():
    """One reward, 1 and 0: the gap weighs more where the policy prefers the loser. Before the
    division by the std, which a group of two would undo, it is the axis advantage."""
    two = Tensor([[[[1, 1]], [[0, 1]]]]).double()

    def gain(logprobs: list[float]) -> Tensor:
        given = replace(
            scored_groups(), vectors=two, eigenvalues=double([[1.0]]), multipliers=double([1.0]),
            logprobs=double([logprobs]), ref_logprobs=double([logprobs]),
            lengths=torch.full((1, 2), 9), finished=torch.ones(1, 2).bool(), uids=torch.tensor([4]),
        )  # fmt: skip
        return LamPO()(given, {}, identity).axis_advantages[0, 0, 0]

    right, wrong = gain([-10.0, -12.0]), gain([-12.0, -10.0])
    assert right.item() == pytest.approx(oracle.sigmoid(-2))
    assert wrong.item() == pytest.approx(oracle.sigmoid(2))


def test_vpo_against_the_oracle():
    given = scored_groups()
    weightings = draw_weightings(given.uids, given.iteration, 64, AXES)
    expected = []
    for g, pairs in enumerate(given.pairs().tolist()):
        weights = given.weights()[g].tolist()
        rewards = [
            [w * s for w, s in zip(weights, row, strict=True)] for row in oracle.mean_scores(pairs)
        ]
        expected.append(oracle.vpo(rewards, weightings[g].tolist(), 1e-4))
    close(advantages(VPO(), given), expected)


def test_vpo_rewards_specialists_and_not_the_mediocre():
    """Two specialists and one that is fairly good at both, with rewards (1, 0), (0, 1), (.4, .4).

    Under (w, 1 − w) the first leads by 2w − 1 where w is in (.5, .6), by w − .4 above: the integral
    is .01 + .16. The third is never the best.
    """
    rewards = double([[[1.0, 0.0], [0.0, 1.0], [0.4, 0.4]]])
    found = set_contributions(rewards, draw_weightings(torch.tensor([0]), 0, 2000, 2)).sum(-1)[0]
    assert found.tolist() == [pytest.approx(0.17, abs=0.02)] * 2 + [0.0]


def test_contributions_are_by_axis_and_never_negative():
    given = scored_groups()
    found = set_contributions(given.scores(), draw_weightings(given.uids, 0, 100, AXES))
    assert found.shape == (GROUPS, SIZE, AXES)
    assert (found.sum(-1) >= 0).all() and (found.sum((1, 2)) > 0).all()


def test_weightings_are_uniform_on_the_simplex_and_keyed():
    drawn = draw_weightings(torch.tensor([1, 2]), 5, 4000, 3)
    torch.testing.assert_close(drawn.sum(-1), torch.ones(2, 4000).double())
    # A uniform distribution on the simplex of three has mean 1/3 and variance 1/18.
    assert (drawn.mean(1) - 1 / 3).abs().max() < 0.02
    assert (drawn.var(1) - 1 / 18).abs().max() < 0.005
    torch.manual_seed(99)
    assert torch.equal(drawn[1:], draw_weightings(torch.tensor([2]), 5, 4000, 3))
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn, draw_weightings(torch.tensor([1, 2]), 6, 4000, 3))


def test_reinforce_pp_against_the_oracle():
    given = scored_groups(rewards=True)
    weights = given.weights()
    absolute = (given.vectors[..., 0] * weights[:, None]).sum(-1)
    relative = (given.scores() * weights[:, None]).sum(-1)
    for baseline, rewards in (("batch", absolute), ("group", relative)):
        expected = oracle.reinforce_pp(rewards.tolist(), 1e-4)
        close(advantages(ReinforcePP(baseline), given), expected)


def test_reinforce_pp_takes_its_moments_from_all_processes():
    """Half of the groups, with the other half's sums added, gives the whole batch's advantages."""
    given = scored_groups(rewards=True)
    whole = advantages(ReinforcePP("batch"), given)
    sums: list[Tensor] = []
    halves = [
        replace(
            given, vectors=given.vectors[part], eigenvalues=given.eigenvalues[part],
            logprobs=given.logprobs[part], ref_logprobs=given.ref_logprobs[part],
            lengths=given.lengths[part], finished=given.finished[part], uids=given.uids[part],
        )
        for part in (slice(0, 1), slice(1, 3))
    ]  # fmt: skip
    for half in halves:
        ReinforcePP("batch")(half, {}, lambda s: sums.append(s) or s)
    found = [ReinforcePP("batch")(half, {}, lambda _: sums[0] + sums[1]) for half in halves]
    torch.testing.assert_close(torch.cat([f.advantages for f in found]), whole)


def test_plain_reinforce_pp_refuses_a_source_that_only_compares():
    with pytest.raises(ValueError, match=r"algorithm\.advantage\.baseline=group"):
        ReinforcePP("batch")(scored_groups(), {}, identity)


def test_the_overlong_filter_silences_what_was_cut():
    given = scored_groups()
    assert not given.finished.all() and given.finished.any()
    plain = GPRLAdvantages()
    found, before = OverlongFilter(plain)(given, {}, identity), plain(given, {}, identity)
    assert (found.advantages[~given.finished] == 0).all()
    assert torch.equal(found.advantages[given.finished], before.advantages[given.finished])
    assert torch.equal(found.group_scores, before.group_scores)
    assert found.state.keys() == before.state.keys()


@pytest.mark.parametrize(
    "rule, option, value",
    [
        (LamPO(), "temperature", 5.0),
        (LamPO(), "per_token", True),
        (LamPO(), "epsilon", 0.1),
        (VPO(), "draws", 8),
        (VPO(), "epsilon", 0.1),
        (ReinforcePP(), "baseline", "batch"),
        (ReinforcePP(), "epsilon", 0.1),
        (OverlongFilter(LamPO()), "rule", VPO()),
    ],
)
def test_every_option_is_alive(rule, option, value):
    given = scored_groups(rewards=True)
    changed = replace(rule, **{option: value})
    assert (advantages(rule, given) - advantages(changed, given)).abs().max() > 1e-3


@pytest.mark.parametrize("rule", [LamPO(), VPO(), ReinforcePP(), OverlongFilter(LamPO())])
def test_a_level_group_has_no_advantage_and_multipliers_are_read(rule):
    given = scored_groups()
    level = replace(given, vectors=given.vectors[:, :1].expand(-1, SIZE, -1, -1).contiguous())
    assert (advantages(rule, level) == 0).all()
    moved = replace(given, multipliers=double([1.9, 0.1]))
    assert (advantages(rule, given) - advantages(rule, moved)).abs().max() > 1e-3
