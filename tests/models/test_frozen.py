"""A frozen model moves with its owner and is in nothing else of its business."""

import copy

import pytest
import torch
from torch import nn

from gprl_lightning.models.frozen import FrozenModel


class Owner(nn.Module):
    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.trained = nn.Linear(2, 2)
        judge = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
        nn.init.constant_(judge[0].weight, value)
        self.judge = FrozenModel(judge)


def test_stays_in_eval_when_its_owner_trains():
    owner = Owner().train()
    assert owner.trained.training
    assert not any(module.training for module in owner.judge.modules())


def test_takes_no_gradient_and_records_none():
    owner = Owner(1.0)
    inputs = torch.ones(4, 2, requires_grad=True)
    assert not owner.judge(inputs).requires_grad
    assert not any(p.requires_grad for p in owner.judge.parameters())


def test_moves_with_its_owner():
    owner = Owner().double()
    assert owner.judge.module[0].weight.dtype == torch.float64


def test_is_not_in_the_checkpoint_and_the_owner_loads_strictly():
    saved = Owner(1.0).state_dict()
    assert set(saved) == {"trained.weight", "trained.bias"}
    owner = Owner(2.0)
    result = owner.load_state_dict(saved, strict=True)
    assert result.missing_keys == result.unexpected_keys == []
    assert torch.equal(owner.trained.weight, saved["trained.weight"])
    assert torch.all(owner.judge.module[0].weight == 2.0)


def test_strictness_still_sees_what_is_missing_and_what_is_foreign():
    owner = Owner()
    saved = dict(owner.state_dict())
    with pytest.raises(RuntimeError, match=r"trained\.bias"):
        owner.load_state_dict({k: v for k, v in saved.items() if k != "trained.bias"})
    with pytest.raises(RuntimeError, match=r"judge\.module\.0\.weight"):
        owner.load_state_dict(saved | {"judge.module.0.weight": torch.ones(3, 2)})


def test_a_copy_of_the_owner_holds_an_equal_one_frozen():
    owner = Owner(2.0)
    other = copy.deepcopy(owner)
    assert torch.equal(other.judge.module[0].weight, owner.judge.module[0].weight)
    assert not any(p.requires_grad for p in other.judge.parameters())
