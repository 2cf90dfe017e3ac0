"""An iteration on a device that keeps its distance: where the host waits, and on what device all
tensors are. Real trainer, callbacks and logger; `tests.far_device` in the place of a GPU."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from gprl_lightning.config.models import LoraConfig
from gprl_lightning.core.host_tokens import places_of
from gprl_lightning.core.transfers import fetched
from gprl_lightning.models.lora import with_lora
from gprl_lightning.models.policy import Policy
from gprl_lightning.rollout.fixed_shapes import STEPS_BETWEEN_LOOKS
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.runtime.offloading import offload
from tests.far_device import CUDA, Far, FarAccelerator, FarDevice, move_far
from tests.tiny import tiny_model, tiny_tokenizer
from tests.worlds import TOKENS, tiny_loader, tiny_module, tiny_trainer

LOOKS = -(-TOKENS // STEPS_BETWEEN_LOOKS)


class Marks(L.Callback):
    """What had been waited for when each iteration began, and where the networks are then."""

    def __init__(self, far: FarDevice, waiting: Sequence[str]) -> None:
        self.far, self.waiting, self.seen = far, waiting, list[Counter[str]]()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, network in pl_module.named_children():
            there = {isinstance(p, Far) for p in network.parameters()}
            assert there <= {name not in self.waiting}, name
        self.seen.append(Counter(self.far.waits))


def adapted_policy() -> Policy:
    torch.manual_seed(0)
    options = LoraConfig(r=4, alpha=8, target_modules=["q_proj", "v_proj"])
    return Policy(with_lora(tiny_model("llama"), options), tiny_tokenizer())


def a_run(
    folder: Path,
    adapters: bool = False,
    far: FarDevice | None = None,
    offloaded: Sequence[str] = (),
    **options: Any,
):
    """Three iterations, there or on the CPU. Return metrics.csv, and waits of the last one."""
    policy = {"policy": adapted_policy()} if adapters else {}
    module = tiny_module(3, **policy, **options)
    module.sampler = NativeSampler(fixed_shapes=True)
    for name in offloaded:
        offload(getattr(module, name).module)
    loader = tiny_loader(module, 3)
    if far is None:
        tiny_trainer(folder, every=100).fit(module, loader)
        return rows_of(folder), Counter[str]()
    marks = Marks(far, offloaded)
    strategy = SingleDeviceStrategy(CUDA, FarAccelerator())
    with far:
        move_far(module)
        trainer = tiny_trainer(
            folder, every=100, callbacks=[marks], accelerator="auto", strategy=strategy
        )
        trainer.fit(module, loader)
    return rows_of(folder), marks.seen[2] - marks.seen[1]


def rows_of(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [
            {
                k: float(v)
                for k, v in row.items()
                if v and "time/" not in k and "per_second" not in k
            }
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize(
    ("adapters", "steps", "options"),
    [
        (False, 1, {"micro_batch_size": 3}),
        (True, 2, {"micro_batch_size": 4, "minibatches": 2, "loss_aggregation": "grpo"}),
    ],
)
def test_an_iteration_waits_four_times_and_once_per_eight_tokens(
    adapters, steps, options, tmp_path
):
    """A further optimiser step is one wait more: whether it was finite."""
    found, waits = a_run(tmp_path / "far", adapters, FarDevice(), **options)
    assert sum(waits.values()) <= 3 + steps + LOOKS, waits
    near, _ = a_run(tmp_path / "near", adapters, **options)
    for ours, theirs in zip(found, near, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():  # another attention kernel: it is rounded otherwise
            assert ours[name] == pytest.approx(value, rel=2e-3, abs=2e-5), name


def test_what_is_offloaded_is_there_in_its_turn_alone_and_nothing_else_changes(tmp_path):
    """Two of three networks wait on the CPU, and are seen there whenever an iteration begins."""
    found, waits = a_run(
        tmp_path / "off", far=FarDevice(), offloaded=["reference", "preference_model"]
    )
    there, as_many = a_run(tmp_path / "there", far=FarDevice())
    assert found == there
    assert sum(waits.values()) == sum(as_many.values()), "pinned memory is not waited for"


READS = {
    "a number": lambda x: x.sum().item(),
    "a branch": lambda x: bool(x.any()),
    "a list": lambda x: x.tolist(),
    "a mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "down": lambda x: x.cpu(),
    "up": lambda x: torch.ones(3).to(x.device),
    "made there": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "the host's index": lambda x: x[torch.tensor([0])],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_the_device_sees_every_kind_of_wait(read):
    with FarDevice() as far:
        x = torch.arange(3, device="cuda").float()
        assert not far.waits
        read(x)
        assert sum(far.waits.values()) == 1


def test_the_device_takes_no_tensors_of_the_host():
    with FarDevice():
        x = torch.arange(3, device="cuda").float()
        assert (x + torch.tensor(1.0)).tolist() == [1, 2, 3]  # one number is no tensor to a kernel
        with pytest.raises(RuntimeError, match="two devices"):
            torch.add(x, torch.ones(3))
        with pytest.raises(RuntimeError, match="two devices"):
            torch.where(torch.ones(3, dtype=torch.bool), x, 0.0)


def test_places_are_those_of_a_mask():
    lengths = torch.tensor([3, 0, 1, 5])
    mask = torch.arange(5) < lengths[:, None]
    assert all(map(torch.equal, places_of(lengths), mask.nonzero(as_tuple=True)))


def test_tensors_of_all_kinds_are_fetched_by_one_wait():
    held = [
        torch.tensor([True, False, True]),
        torch.randn(2, 3),
        torch.tensor(7),
        torch.randn(5).bfloat16(),
        torch.randn(0, 2).double(),
        torch.randn(3, 1).double(),
    ]
    with FarDevice() as far:
        moved = [tensor.to(CUDA) for tensor in held]
        before = sum(far.waits.values())
        found = fetched([*moved, held[0]])
        assert sum(far.waits.values()) == before + 1
    assert all(not isinstance(x, Far) for x in found)
    assert all(map(torch.equal, found, [*held, held[0]]))
    assert [x.dtype for x in found] == [x.dtype for x in [*held, held[0]]]
