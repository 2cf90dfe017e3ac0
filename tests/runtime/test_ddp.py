"""Which strategy a trainer gets: DDP under watch, whatever it is called."""

from __future__ import annotations

import pytest
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import OmegaConf

from gprl_lightning.runtime.ddp import WatchedDDP, strategy_of


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "ddp"},
        {"strategy": "ddp_find_unused_parameters_true", "devices": 2},
        {"devices": 2},
        {"strategy": "auto", "devices": "0,1"},
        {"devices": [0, 1]},
        {"devices": 1, "num_nodes": 2},
    ],
)
def test_several_processes_are_watched(tmp_path, options):
    found = strategy_of(OmegaConf.create({"accelerator": "cpu", **options}), tmp_path, 20.0)
    assert isinstance(found, WatchedDDP)
    assert found._timeout.total_seconds() == 40, "later than the watch, which knows whom it is for"
    unused = options.get("strategy", "").endswith("true")
    assert found._ddp_kwargs == ({"find_unused_parameters": True} if unused else {})


def test_one_process_is_not(tmp_path):
    for options in ({}, {"devices": 1}, {"devices": "auto"}, {"devices": "1"}):
        trainer = OmegaConf.create({"accelerator": "cpu", **options})
        assert strategy_of(trainer, tmp_path, 20.0) == "auto"


def test_a_strategy_of_one_s_own_is_kept(tmp_path):
    trainer = OmegaConf.create(
        {"strategy": {"_target_": "lightning.pytorch.strategies.DDPStrategy"}, "devices": 2}
    )
    found = strategy_of(trainer, tmp_path, 20.0)
    assert type(found) is DDPStrategy
