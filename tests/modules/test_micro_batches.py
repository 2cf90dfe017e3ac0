"""How rows are dealt out to forward passes: within the bounds, similar rows together."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.config import AlgorithmConfig
from gprl_lightning.errors import ConfigError
from gprl_lightning.modules.partition import micro_batches
from tests.modules.edge_rollout import RESPONSES, SIZE, edge_rollout
from tests.modules.test_partition import EVERYTHING, TOLERANCE, distance, gradient, module_of
from tests.tiny import tiny_policy

LENGTHS = torch.tensor([len(r) for r in RESPONSES])


def parts_of(rollout, rows=EVERYTHING, keep_groups=False, **bounds):
    return micro_batches(rows, rollout, AlgorithmConfig(**bounds), keep_groups)


@pytest.fixture(scope="module")
def rollout():
    return edge_rollout(tiny_policy()).rollout


def test_without_bounds_all_rows_are_one_part(rollout):
    (part,) = parts_of(rollout)
    assert sorted(part.tolist()) == EVERYTHING.tolist()
    assert LENGTHS[part].tolist() == sorted(LENGTHS.tolist())


@pytest.mark.parametrize("keep_groups", [False, True])
@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("budget", [1, 40, 75, 100, 400, 10_000])
def test_no_part_holds_more_than_the_budget(rollout, budget, size, keep_groups):
    bounds = {"micro_batch_tokens": budget, "micro_batch_size": size}
    prompts = rollout.prompts.mask.sum(1)[EVERYTHING // SIZE]
    parts = parts_of(rollout, keep_groups=keep_groups, **bounds)
    assert sorted(torch.cat(parts).tolist()) == EVERYTHING.tolist()

    def cost(rows):
        return len(rows) * int(prompts[rows].max() + LENGTHS[rows].max())

    for part, after in zip(parts, [*parts[1:], None], strict=True):
        assert len(part) <= (size or len(EVERYTHING))
        assert len(part) == 1 or cost(part) <= budget
        if after is not None:  # and none could have held the next row too
            more = torch.cat([part, after[:1]])
            assert cost(more) > budget or len(part) == size


def test_rows_of_a_prompt_stay_together(rollout):
    rows = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    (part,) = parts_of(rollout, rows, keep_groups=True)
    groups = (part // SIZE).tolist()
    # By the longest response of each: 5 tokens in group 1, 7 in group 2, 8 in groups 0 and 3.
    assert groups == [1] * 3 + [2] * 3 + [0] * 3 + [3] * 3
    for group in range(4):
        lengths = LENGTHS[part[part // SIZE == group]].tolist()
        assert lengths == sorted(lengths)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_gradients_do_not_depend_on_the_budget(dtype):
    module = module_of(dtype)
    scored = edge_rollout(module.policy)
    expected = gradient(module, scored)
    for budget in (1, 60, 100, 300):
        module.algorithm.micro_batch_tokens = budget
        assert distance(gradient(module, scored), expected) <= TOLERANCE[dtype]


def test_the_budget_counts():
    """Liveness: the policy is called as often as there are parts."""
    module = module_of()
    scored, calls = edge_rollout(module.policy), []
    module.policy.register_forward_hook(lambda *_: calls.append(0))
    for budget, expected in ((None, 1), (1, 12)):
        calls.clear()
        module.algorithm.micro_batch_tokens = budget
        gradient(module, scored)
        assert len(calls) == expected


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"algorithm\.micro_batch_tokens"):
        AlgorithmConfig(micro_batch_tokens=0)
