"""AdamW on float32 masters: PyTorch's own on float32 weights, rounded; bit-equal after a resume."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from gprl_lightning.core.adamw_masters import MASTER, AdamWMasters

OPTIONS = {"lr": 1e-3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def weights(dtype: torch.dtype) -> nn.Parameter:
    torch.manual_seed(0)
    return nn.Parameter(torch.randn(5, 3).to(torch.bfloat16).to(dtype))


def gradient(step: int) -> torch.Tensor:
    torch.manual_seed(step)
    return torch.randn(5, 3).to(torch.bfloat16)


def by_hand(steps: int) -> list[float]:
    """AdamW in float64, entry by entry."""
    (b1, b2), out = OPTIONS["betas"], []
    for i, start in enumerate(weights(torch.float64).flatten().tolist()):
        w, m, v = start, 0.0, 0.0
        for t in range(1, steps + 1):
            g = float(gradient(t).flatten()[i])
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            w -= OPTIONS["lr"] * OPTIONS["weight_decay"] * w
            root = math.sqrt(v / (1 - b2**t)) + OPTIONS["eps"]
            w -= OPTIONS["lr"] * m / (1 - b1**t) / root
        out.append(w)
    return out


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_masters_move_as_adamw_says_and_the_network_has_them_rounded(dtype, fused):
    parameter = weights(dtype)
    optimizer = AdamWMasters([parameter], fused=fused, **OPTIONS)
    for step in range(1, 8):
        parameter.grad = gradient(step).to(dtype)
        optimizer.step()
    master = optimizer.state[parameter].get(MASTER, parameter)
    assert (MASTER in optimizer.state[parameter]) is (dtype == torch.bfloat16)
    expected = torch.tensor(by_hand(7), dtype=torch.float64).view(5, 3)
    torch.testing.assert_close(master.detach().double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(parameter, master.to(dtype))


def test_small_steps_add_up_where_bfloat16_would_lose_them():
    found = {}
    for make in (AdamWMasters, torch.optim.AdamW):
        parameter = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        optimizer = make([parameter], lr=1e-5, weight_decay=0.0)
        for _ in range(1000):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        found[make] = float(parameter[0])
    assert found[torch.optim.AdamW] == 1
    assert found[AdamWMasters] == pytest.approx(0.99, abs=0.003)


def test_a_parameter_without_a_gradient_stays():
    parameter = weights(torch.bfloat16)
    before = parameter.detach().clone()
    AdamWMasters([parameter], **OPTIONS).step()
    assert torch.equal(parameter, before)


def test_a_resume_is_bit_equal():
    """The state goes by way of a file's worth of plain tensors; the weights as bfloat16."""
    whole = weights(torch.bfloat16)
    optimizer = AdamWMasters([whole], **OPTIONS)
    saved = None
    for step in range(1, 9):
        whole.grad = gradient(step)
        optimizer.step()
        if step == 4:
            saved = copy.deepcopy((whole.detach(), optimizer.state_dict()))
    assert saved is not None
    again = nn.Parameter(saved[0])
    resumed = AdamWMasters([again], **OPTIONS)
    resumed.load_state_dict(saved[1])
    assert resumed.state[again][MASTER].dtype == torch.float32
    for step in range(5, 9):
        again.grad = gradient(step)
        resumed.step()
    assert torch.equal(again, whole)
    assert all(torch.equal(resumed.state[again][k], v) for k, v in optimizer.state[whole].items())
