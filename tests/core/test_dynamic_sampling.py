"""Dynamic sampling: groups with a signal come first, and shapes stay."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.core.dynamic_sampling import groups_with_signal


@pytest.mark.parametrize(
    "signals, keep, expected",
    [
        ([0, 1, 0, 1], 2, [1, 3]),
        ([0, 1, 0, 1], 3, [0, 1, 3]),  # filled up with the first silent one
        ([1, 1, 1, 1], 2, [0, 1]),
        ([0, 0, 0, 0], 2, [0, 1]),
        ([0, float("nan"), 1, 0], 2, [1, 2]),
    ],
)
def test_the_first_groups_with_a_signal_are_kept(signals, keep, expected):
    advantages = torch.tensor(signals)[:, None] * torch.tensor([1.0, 0.0, -1.0])
    assert groups_with_signal(advantages, keep).tolist() == expected


def test_one_response_is_signal_enough():
    advantages = torch.zeros(3, 4)
    advantages[2, 3] = 1e-6
    assert groups_with_signal(advantages, 1).tolist() == [2]
