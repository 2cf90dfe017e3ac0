"""The online methods by one word of `algorithm`: each composes, differs from GPRL, and trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from gprl_lightning.config.validation import validate
from gprl_lightning.core.gprl_advantages import GPRLAdvantages
from gprl_lightning.core.lampo import LamPO
from gprl_lightning.core.max_min import MaxMin
from gprl_lightning.core.overlong_filter import OverlongFilter
from gprl_lightning.core.reinforce_pp import ReinforcePP
from gprl_lightning.core.vpo import VPO
from gprl_lightning.errors import ConfigError
from gprl_lightning.modules.partition import minibatches
from gprl_lightning.modules.statistics import UpdateStatistics
from gprl_lightning.tracking.rule_record import rule_of, rule_record
from tests.composing import composed
from tests.core.baseline_groups import advantages, scored_groups
from tests.worlds import SIZE, scored_rollout, tiny_module

PLAIN = GPRLAdvantages(normalization="none")
WORDS: dict[str, tuple[Any, str, str]] = {  # rule, loss and aggregation
    "gprl": (GPRLAdvantages(), "Clip", "dr_grpo"),
    "rloo": (PLAIN, "Clip", "dr_grpo"),
    "dr_grpo": (PLAIN, "Clip", "dr_grpo"),
    "reinforce_pp": (ReinforcePP(), "Clip", "dapo"),
    "dapo": (OverlongFilter(GPRLAdvantages(normalization="global")), "Clip", "dapo"),
    "gspo": (GPRLAdvantages(), "GSPO", "grpo"),
    "cispo": (GPRLAdvantages(), "CISPO", "dapo"),
    "lampo": (LamPO(), "Clip", "dr_grpo"),
    "vpo": (VPO(), "Clip", "dr_grpo"),
    "max_min": (MaxMin(), "Clip", "dr_grpo"),
}


def gradient(word: str, baseline: str | None = None) -> Tensor:
    """Of a first update of the tiny module, by the word's rule, loss and aggregation."""
    config = validate(composed(f"algorithm={word}", "experiment=smoke"))
    module = tiny_module()
    module.algorithm = config.algorithm
    module.advantage_rule = instantiate(config.algorithm.advantage)
    module.policy_loss = instantiate(config.algorithm.policy_loss)
    module.manual_backward = lambda loss: loss.backward()
    torch.manual_seed(0)
    with torch.no_grad():  # away from the old policy, where the losses differ
        scored = scored_rollout(module)
        for parameter in module.policy.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    module._backward(scored, torch.arange(3 * SIZE), UpdateStatistics())
    return torch.cat([p.grad.flatten() for p in module.policy.parameters()])


@pytest.mark.parametrize("word", WORDS)
def test_a_word_is_its_rule_its_loss_and_its_aggregation(word):
    config = validate(composed(f"algorithm={word}", "experiment=smoke"))
    rule, loss, aggregation = WORDS[word]
    assert instantiate(config.algorithm.advantage) == rule
    assert config.algorithm.policy_loss["_target_"].endswith("." + loss)
    assert config.algorithm.loss_aggregation == aggregation
    assert config.algorithm.name == word
    assert config.drift.enabled == (word == "gprl")  # a baseline has no monitor but by drift=full
    assert validate(composed(f"algorithm={word}", "drift=full")).drift.enabled


def test_every_word_takes_another_step_than_gprl():
    """RLOO and Dr. GRPO are one method in a first update; all others differ from each other."""
    steps = {word: gradient(word) for word in WORDS}
    assert torch.equal(steps["rloo"], steps.pop("dr_grpo"))
    words = list(steps)
    for i, one in enumerate(words):
        assert steps[one].norm() > 1e-4
        for other in words[:i]:
            assert (steps[one] - steps[other]).norm() > 1e-4 * steps[one].norm(), (one, other)


def test_daps_clip_higher_and_oversampling_are_set():
    algorithm = validate(composed("algorithm=dapo")).algorithm
    assert (algorithm.clip_epsilon, algorithm.clip_epsilon_high) == (0.2, 0.28)
    assert algorithm.oversample == 2


def test_oversampling_keeps_the_groups_with_a_signal():
    """Three groups for one kept: the update has the rows of the only one that is not silent."""
    module = tiny_module(oversample=3)
    scored = scored_rollout(module)
    scored.advantages[:2] = 0.0
    kept = module._kept(scored)
    assert kept.tolist() == [2]
    rows = torch.cat(list(minibatches(scored.rollout, module.algorithm, 0, kept)))
    assert sorted(rows.tolist()) == list(range(2 * SIZE, 3 * SIZE))
    module = tiny_module()
    assert module._kept(scored).tolist() == [0, 1, 2]


@pytest.mark.parametrize("word", [word for word in WORDS if word != "gprl"])
def test_a_log_can_build_the_rule_again(word):
    """Also a rule around a rule: the record of `inspect` names both."""
    rule = WORDS[word][0]
    again = rule_of(rule_record(rule))
    assert again == rule
    torch.testing.assert_close(
        advantages(again, scored_groups()), advantages(rule, scored_groups()), atol=0, rtol=0
    )


def test_grpo_with_its_reward_in_one_word():
    """Whichever preference model is chosen, its head is a Bradley-Terry one."""
    config = validate(composed("algorithm=grpo_bt", "experiment=smoke"))
    assert (config.algorithm.name, config.preference_model.kind) == ("grpo", "bradley_terry")
    assert not config.drift.enabled
    model = validate(composed("algorithm=grpo_bt", "experiment=smollm2_135m")).preference_model
    assert (model.kind, model.num_axes, model.path) == ("bradley_terry", 1, "smollm2_135m")
    with pytest.raises(ConfigError, match="expected bradley_terry"):
        validate(composed("algorithm=grpo"))


@pytest.mark.parametrize("word", ["gprl", "grpo_bt", "dpo", "simpo", "sppo"])
def test_the_grid_of_smollm2_composes_with_each_of_its_words(word):
    """SPPO's five responses and the others' eight go through the same micro-batches."""
    config = validate(composed(f"algorithm={word}", "grid=baselines_smollm2"))
    grid = composed("grid=baselines_smollm2", hydra=True).hydra.sweeper.params
    assert word in grid.algorithm.split(",") and len(grid.algorithm.split(",")) == 5
    assert config.policy.path == config.preference_model.path == "smollm2_135m"
    assert config.iterations == 60 and config.rollout.group_size == (5 if word == "sppo" else 8)
