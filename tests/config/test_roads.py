"""One's own policy, data and reward take the road `experiment=own`; the sandbox's is refused."""

from __future__ import annotations

import shlex

import pytest

from gprl_lightning.config.cautions import setup_cautions
from gprl_lightning.config.validation import validate
from gprl_lightning.errors import ConfigError
from tests.composing import composed, options

MODEL = "gprl_lightning/sandbox/assets/language_model"
PARTS = (f"policy.path={MODEL}", "data.path=README.md", f"preference_model.path={MODEL}")
OWN = ("experiment=own", *PARTS)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("experiment", ["sandbox", "smoke", "study"])
def test_what_is_foreign_to_the_sandbox_is_refused_with_the_line_to_type(part, experiment):
    with pytest.raises(ConfigError) as refused:
        validate(composed(f"experiment={experiment}", part))
    message = str(refused.value)
    assert message.startswith(part)
    (line,) = [line for line in message.splitlines() if line.startswith("  python train.py")]
    assert "experiment=own" in line and part in line


def test_the_line_to_type_is_a_valid_run_with_the_same_parts():
    with pytest.raises(ConfigError) as refused:
        validate(composed(*PARTS))
    (line,) = [s for s in str(refused.value).splitlines() if s.startswith("  python train.py")]
    config = validate(composed(*shlex.split(line)[2:]))
    found = (config.policy.path, config.data.path, config.preference_model.path)
    assert found == (MODEL, "README.md", MODEL)


def test_the_sandbox_s_settings_can_be_kept_on_purpose():
    assert validate(composed(*PARTS, "evaluation.judge=none", "sandbox_only=false"))


def test_own_has_the_rates_of_a_real_model():
    config = validate(composed(*OWN))
    assert (config.optimizer["lr"], config.algorithm.kl_coef) == (1e-6, 0.02)
    assert (config.rollout.max_new_tokens, config.rollout.group_size) == (512, 8)
    assert validate(composed(*OWN, "lora=adapters")).optimizer["lr"] == 1e-5
    assert validate(composed(*OWN, "optimizer.lr=3e-6")).optimizer["lr"] == 3e-6
    assert (config.drift.kl_bound, validate(composed()).drift.kl_bound) == (2.0, 10.0)
    assert validate(composed(*OWN, "drift.kl_bound=10")).drift.kl_bound == 10.0


def test_own_names_all_that_it_needs_at_once():
    with pytest.raises(ConfigError) as refused:
        validate(composed("experiment=own"))
    for key in ("policy.path", "data.path", "preference_model.path"):
        assert f"{key}=..." in str(refused.value)


@pytest.mark.parametrize("experiment", [e for e in options("experiment") if "smollm2" in e])
@pytest.mark.parametrize("part", PARTS[:2])
def test_a_forgotten_reward_is_refused_on_any_road(experiment, part):
    """Else the policy would be sampled on the sandbox's requests, and a toy reward trained."""
    judge = "evaluation.judge=none"
    with pytest.raises(ConfigError, match="expected a reward of your own") as refused:
        validate(composed(f"experiment={experiment}", part, judge))
    assert part in str(refused.value)


def test_the_sandbox_s_gold_does_not_judge_other_prompts():
    with pytest.raises(ConfigError, match=r"sandbox_gold: expected data.path=sandbox"):
        validate(composed(*OWN, "evaluation.judge=sandbox_gold"))


@pytest.mark.parametrize(
    "change,num_axes,found",
    [
        ((), 3, "no independent witness"),
        (("evaluation.judge=none",), 3, None),
        (("evaluation.judge=none",), 1, "the reward has one axis"),
        (("evaluation.judge=none", "drift=surprise"), 1, None),
        (("evaluation.judge=none", "drift=disabled"), 1, None),
        (("evaluation.judge=none", "iterations=10"), 3, "calibrates to the end"),
        (("evaluation.judge=none", "iterations=11"), 3, None),
    ],
)
def test_doubtful_choices_are_said(change, num_axes, found):
    cautions = setup_cautions(validate(composed(*OWN, *change)), num_axes)
    assert (found in cautions[0]) if found else cautions == []
