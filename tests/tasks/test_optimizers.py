"""The optimisers by word: each makes a step, or says which package it lacks."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.core.adamw_masters import AdamWMasters
from gprl_lightning.errors import ConfigError
from gprl_lightning.tasks import build
from gprl_lightning.tasks.build import make_optimizer
from tests.composing import composed


@pytest.mark.parametrize(("word", "kind"), [
    ("adamw", torch.optim.AdamW), ("adamw_masters", AdamWMasters),
])  # fmt: skip
def test_each_word_is_its_optimiser(word, kind):
    make = make_optimizer(composed(f"optimizer={word}", "optimizer.lr=0.5"))
    made = make([torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))])
    assert type(made) is kind and made.param_groups[0]["lr"] == 0.5
    assert tuple(made.param_groups[0]["betas"]) == (0.9, 0.999)


class Keeps(torch.optim.SGD):
    """An optimiser that keeps a list of its options as it comes, as bitsandbytes' do."""

    def __init__(self, parameters, lr, betas, **others):
        super().__init__(parameters, lr)
        self.param_groups[0]["betas"] = betas


def test_an_optimisers_options_are_plain_for_its_checkpoints():
    target = f"optimizer._target_={__name__}.Keeps"
    cfg = composed("optimizer=adamw_8bit", "~optimizer.weight_decay", target)
    found = make_optimizer(cfg)([torch.nn.Parameter(torch.zeros(2))])
    assert type(found.state_dict()["param_groups"][0]["betas"]) is list


def test_8_bits_without_their_package_are_refused_in_one_message(monkeypatch):
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gprl-lightning\[bitsandbytes\].*adamw_masters"):
        make_optimizer(composed("optimizer=adamw_8bit"))


def test_8_bits_resume_bit_for_bit():
    pytest.importorskip("bitsandbytes")
    make = make_optimizer(composed("optimizer=adamw_8bit", "optimizer.lr=0.01"))

    def steps(parameter, optimizer, numbers):
        for number in numbers:
            torch.manual_seed(number)
            parameter.grad = torch.randn_like(parameter)
            optimizer.step()

    whole = torch.nn.Parameter(torch.zeros(8192))
    optimizer = make([whole])
    steps(whole, optimizer, range(3))
    again = torch.nn.Parameter(whole.detach().clone())
    resumed = make([again])
    resumed.load_state_dict(optimizer.state_dict())
    assert any(v.dtype == torch.uint8 for v in resumed.state[again].values() if hasattr(v, "dtype"))
    for parameter, one in ((whole, optimizer), (again, resumed)):
        steps(parameter, one, range(3, 6))
    assert torch.equal(whole, again)
