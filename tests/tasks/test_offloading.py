"""``offload``: which networks wait, and what is refused."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.config.validation import validate
from gprl_lightning.errors import ConfigError
from gprl_lightning.evaluation.function_judge import FunctionJudge
from gprl_lightning.evaluation.judge import SourceJudge
from gprl_lightning.tasks.evaluation import PROXY
from gprl_lightning.tasks.offloading import offload_networks
from tests.composing import composed
from tests.worlds import tiny_module


def offloaded(names: str):
    """A run's networks, with two judges of weights of their own, one the reward."""
    config = validate(composed("trainer.accelerator=auto", f"offload=[{names}]"))
    module, other = tiny_module(), tiny_module().preference_source
    judges = {
        "gold": FunctionJudge(len), "second": SourceJudge(other),
        PROXY: SourceJudge(module.preference_source),
    }  # fmt: skip
    offload_networks(config, module, judges)
    networks = {
        "reference": module.reference.module, "preference_model": module.preference_source,
        "judges": other, "policy": module.policy,
    }  # fmt: skip
    return module, {name for name, network in networks.items() if "offloaded" in vars(network)}


@pytest.mark.parametrize(
    "names", ["", "reference", "preference_model", "judges", "reference,judges"]
)
def test_the_networks_that_are_named_wait_and_no_others(names):
    module, waiting = offloaded(names)
    assert waiting == set(filter(None, names.split(",")))
    module.to(torch.bfloat16)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}


def test_a_name_that_stands_for_nothing_is_refused():
    config = validate(composed("trainer.accelerator=auto", "offload=[judges]"))
    with pytest.raises(ConfigError, match=r"offload=\['judges'\]: expected networks .* none under"):
        offload_networks(config, tiny_module(), {"gold": FunctionJudge(len)})
