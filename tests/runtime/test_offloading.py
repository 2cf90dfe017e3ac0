"""Networks that wait on the CPU: where their weights are, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.runtime.offloading import at_work, offload
from gprl_lightning.runtime.sharding import whole

META = torch.device("meta")  # as good as any other that is not the CPU


def network() -> nn.Module:
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))  # with buffers
    made[0].bias = made[1].bias  # type: ignore[assignment]  # tied
    return made.requires_grad_(False).eval()


def devices(module: nn.Module) -> set[str]:
    return {t.device.type for t in (*module.parameters(), *module.buffers())}


def test_it_stays_where_its_owner_is_moved_and_is_there_at_work():
    waits, moves = network(), network()
    values = {name: value.clone() for name, value in waits.state_dict().items()}
    offload(waits)
    owner = nn.ModuleList([FrozenModel(waits), FrozenModel(moves)]).to(META)
    assert (devices(waits), devices(moves)) == ({"cpu"}, {"meta"})
    places = {name: p.data_ptr() for name, p in waits.named_parameters()}
    with whole(waits):
        assert devices(owner) == {"meta"}
        with at_work(waits):  # of a caller inside
            assert waits(torch.ones(2, 3, device=META)).device == META
        assert devices(waits) == {"meta"}
    assert devices(waits) == {"cpu"} and waits[0].bias is waits[1].bias
    assert {name: p.data_ptr() for name, p in waits.named_parameters()} == places
    assert all(torch.equal(values[name], value) for name, value in waits.state_dict().items())


def test_it_goes_back_when_its_work_fails():
    waits = network()
    offload(waits)
    waits.to(META)
    with pytest.raises(RuntimeError, match="no"), whole(waits):
        raise RuntimeError("no")
    assert devices(waits) == {"cpu"}
    with whole(waits):
        assert devices(waits) == {"meta"}


def test_it_takes_another_dtype_where_it_is():
    waits = network()
    offload(waits)
    waits.to(META).to(torch.bfloat16)
    assert devices(waits) == {"cpu"} and waits[0].weight.dtype == torch.bfloat16
    with whole(waits):
        assert devices(waits) == {"meta"}


def test_what_is_trained_is_not_offloaded():
    with pytest.raises(ValueError, match="frozen"):
        offload(nn.Linear(2, 2))


def test_what_is_not_offloaded_stays_where_it_is():
    stays = network().to(META)
    with whole(stays):
        assert devices(stays) == {"meta"}
    assert devices(stays) == {"meta"}
