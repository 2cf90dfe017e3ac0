"""A run's folder says which rule it had, and a file never says what code runs."""

from __future__ import annotations

import json
from functools import partial

import pytest

from gprl_lightning.core.gprl_advantages import GPRLAdvantages
from gprl_lightning.tracking.rule_record import rule_of, rule_record


def my_rule(groups, state, all_reduce, power=1.0):
    raise AssertionError("only its name is needed")


NAME = f"{__name__}.my_rule"


def test_the_package_s_rule_comes_back_with_its_options():
    rule = GPRLAdvantages(normalization="global", epsilon=0.5)
    assert rule_of(rule_record(rule)) == rule


def test_another_rule_needs_the_user_s_word():
    record = rule_record(partial(my_rule, power=2.0))
    assert json.loads(record) == {"_target_": NAME, "power": 2.0}
    with pytest.raises(LookupError, match=f"expected --rule {NAME}"):
        rule_of(record)
    found = rule_of(record, NAME)
    assert isinstance(found, partial) and found.keywords == {"power": 2.0}
    assert rule_of(rule_record(my_rule), NAME) is my_rule
    assert rule_of(record, "gprl_lightning.core.gprl_advantages.GPRLAdvantages") == GPRLAdvantages()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "gprl_lightning.cli.inspect.main",
        "gprl_lightning.tracking.rule_record.import_module",
        "gprl_lightning.tracking.rule_record.json.loads",
        "gprl_lightning.tracking.rollout_log.ScoredGroups",
        "gprl_lightning.nothing.here",
    ],
)
def test_a_file_names_no_code_to_run(target):
    with pytest.raises(LookupError):
        rule_of(json.dumps({"_target_": target}))


def test_unknown_options_are_named():
    record = json.dumps({"_target_": rule_name(), "no_such": 1})
    with pytest.raises(LookupError, match="no_such"):
        rule_of(record)


def rule_name() -> str:
    return json.loads(rule_record(GPRLAdvantages()))["_target_"]
