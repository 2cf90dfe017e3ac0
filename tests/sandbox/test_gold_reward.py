"""The gold as the reward: what the update is given are the gold's own verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gprl_lightning.config.validation import validate
from gprl_lightning.core.batch import Prompt
from gprl_lightning.core.preference import group_scores, pairwise_scores
from gprl_lightning.errors import ConfigError
from gprl_lightning.evaluation.judge import SourceJudge
from gprl_lightning.models.preference_source import as_module
from gprl_lightning.sandbox.gold import GoldJudge
from gprl_lightning.sandbox.gold_reward import GoldSource
from gprl_lightning.sandbox.requests import all_requests
from gprl_lightning.tasks.build import build_preference_source
from tests.composing import composed

ANSWERS = [
    "The cafe is lovely and the coffee is good. I enjoyed it very much and will come again soon.",
    "bad bad bad bad bad",
    "The coffee at this cafe was cold, and we did not like the service at all.",
    "Coffee.",
    "The cafe is lovely and the coffee is good. I enjoyed it very much and will come again soon.",
]


@pytest.fixture(scope="module")
def model():
    """Of the vote, whose verdicts can go round in circles."""
    cfg = composed("ablation=gold_reward", "sandbox.gold=vote")
    return build_preference_source(validate(cfg), cfg)


def test_group_scores_are_the_gold_s_mean_verdicts(model):
    requests = all_requests()[:2]
    prompts = [({"role": "user", "content": request.text},) for request in requests]
    groups = [ANSWERS, ANSWERS[::-1]]
    found = group_scores(model.embed(prompts, groups).vectors)[..., 0]
    judge = GoldJudge()
    for row, request, group in zip(found.tolist(), requests, groups, strict=True):
        expected = []
        for i, answer in enumerate(group):
            others = [other for j, other in enumerate(group) if j != i]
            verdicts = [2 * judge.prefer(request, answer, other) - 1 for other in others]
            expected.append(sum(verdicts) / len(verdicts))
        assert row == pytest.approx(expected, abs=1e-6)
        assert max(expected) - min(expected) > 0.5


def test_it_prefers_what_the_gold_prefers(model):
    request = all_requests()[0]
    prompt = Prompt(0, ({"role": "user", "content": request.text},))
    (found,) = SourceJudge(model).prefer([prompt], [ANSWERS[0]], [ANSWERS[1]])
    verdict = GoldJudge().prefer(request, *ANSWERS[:2])
    assert verdict in (0.0, 1.0)
    assert found == verdict


def test_every_pair_has_the_gold_s_verdict_cycles_included(model):
    request, judge = all_requests()[0], GoldJudge()
    prompt = ({"role": "user", "content": request.text},)
    found = pairwise_scores(model.embed([prompt], [ANSWERS]).vectors)[0, ..., 0].tolist()
    expected = [[2 * judge.prefer(request, a, b) - 1 for b in ANSWERS] for a in ANSWERS]
    assert found == expected


def test_nothing_of_it_can_be_trained(model):
    assert isinstance(model, GoldSource) and not [*as_module(model).parameters()]
    prompt = ({"role": "user", "content": all_requests()[0].text},)
    assert torch.equal(model.embed([prompt], [ANSWERS]).eigenvalues, torch.ones(1, 1))


@pytest.mark.parametrize(
    "override,message",
    [
        ("drift.enabled=true", "drift.statistic=variance_share: expected surprise"),
        (f"data.path={Path(__file__)}", "data.path="),
        ("preference_model.num_axes=2", "preference_model.kind=gold has one axis"),
        ("task=train_preference_model", "the gold is not trained"),
    ],
)
def test_where_it_cannot_be(override, message):
    with pytest.raises(ConfigError) as refused:
        validate(composed("ablation=gold_reward", *override.split()))
    assert message in str(refused.value)


@pytest.mark.parametrize("anchor", ["true", "false"])
def test_the_surprise_monitor_needs_no_axes(anchor):
    """And an anchor is one more response of the group: it can be had."""
    surprise = ["drift.enabled=true", "drift.statistic=surprise"]
    validate(composed("ablation=gold_reward", *surprise, f"drift.anchor={anchor}"))
