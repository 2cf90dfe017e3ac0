"""Checkpoints of shards, in a process group of one: what is written, read, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch.distributed import checkpoint
from torch.distributed.device_mesh import init_device_mesh

from gprl_lightning.errors import CheckpointCorrupt, NotFinite, ResumeRefused
from gprl_lightning.models.decoder import layer_step
from gprl_lightning.runtime import sharded_checkpoint
from gprl_lightning.runtime.checkpoint_files import FILES, REST, damage, read_header
from gprl_lightning.runtime.checkpoint_io import PlainCheckpointIO
from gprl_lightning.runtime.sharded_checkpoint import load_sharded, save_sharded
from gprl_lightning.runtime.sharding import full, is_sharded, shard, whole
from tests.equality import differences
from tests.tiny import tiny_prompts
from tests.worlds import tiny_module

pytestmark = pytest.mark.skipif(
    not hasattr(checkpoint, "HuggingFaceStorageReader"), reason="PyTorch is older than 2.8"
)


@pytest.fixture(autouse=True)
def mesh(tmp_path):
    place = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def sharded_module(mesh, seed: int = 0) -> tuple[Any, Any]:
    """A module whose policy is sharded and has made one step, and its optimiser."""
    torch.manual_seed(seed)
    module = tiny_module()
    shard(module.policy, mesh, layer_step, None)
    optimizer = torch.optim.AdamW(module.trained_parameters, lr=1e-2 * (1 + seed))
    prompts = tiny_prompts(module.policy, ["hi", "sing"])
    given = prompts.input_ids, prompts.mask
    module.policy(*given, *given)[0].sum().backward()
    optimizer.step()
    return module, optimizer


def dumped(module: Any, optimizer: Any) -> dict[str, Any]:
    return {
        "state_dict": module.state_dict(keep_vars=True),
        "optimizer_states": [optimizer.state_dict()],
        "loops": {},
        "lr_schedulers": [],
    }


def saved(module: Any, optimizer: Any, folder: Path) -> PlainCheckpointIO:
    io = PlainCheckpointIO()
    save_sharded(dumped(module, optimizer), folder, io)
    return io


def values(module: Any, optimizer: Any) -> dict[str, Any]:
    moments = optimizer.state_dict()["state"]
    return {
        "weights": {n: full(p.detach()).clone() for n, p in module.policy.named_parameters()},
        "moments": {
            (i, n): full(t).clone() for i, state in moments.items() for n, t in state.items()
        },
    }


def test_what_is_saved_is_read_back(tmp_path, mesh, monkeypatch):
    """In as many files as the size asks for; the optimiser that is saved keeps its moments."""
    monkeypatch.setattr(sharded_checkpoint, "FILE_BYTES", 50_000)
    module, optimizer = sharded_module(mesh)
    expected = values(module, optimizer)
    folder = tmp_path / "iteration_000001.ckpt"
    assert saved(module, optimizer, folder).failure is None
    assert differences(values(module, optimizer), expected) == []
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    assert len(files) > 1
    assert sorted(read_header(folder)[FILES]) == files
    assert damage(folder) is None
    other, its_optimizer = sharded_module(mesh, seed=1)
    assert differences(values(other, its_optimizer), expected) != []
    read = load_sharded(folder, other, [its_optimizer])
    other.load_state_dict(read["state_dict"])
    its_optimizer.load_state_dict(read["optimizer_states"][0])
    assert differences(values(other, its_optimizer), expected) == []


def test_weights_that_are_not_finite_are_not_saved(tmp_path, mesh):
    module, optimizer = sharded_module(mesh)
    with torch.no_grad():
        next(module.policy.parameters()).to_local()[0] = torch.inf
    failure = saved(module, optimizer, tmp_path / "bad.ckpt").failure
    assert isinstance(failure, NotFinite)
    assert not (tmp_path / "bad.ckpt" / REST).exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path, mesh):
    module, optimizer = sharded_module(mesh)
    (tmp_path / "file").write_text("")
    failure = saved(module, optimizer, tmp_path / "file" / "a.ckpt").failure
    assert isinstance(failure, NotADirectoryError)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path, mesh):
    module, optimizer = sharded_module(mesh)
    file, folder = tmp_path / "whole.ckpt", tmp_path / "shards.ckpt"
    file.write_text("")
    with pytest.raises(ResumeRefused, match="a run whose weights were not sharded"):
        load_sharded(file, module, [optimizer])
    saved(module, optimizer, folder)
    with pytest.raises(ResumeRefused, match="Go on with trainer=fsdp2"):
        PlainCheckpointIO().load_checkpoint(folder)


def test_shards_of_another_policy_are_refused(tmp_path, mesh):
    module, optimizer = sharded_module(mesh)
    del module.policy.model.model.layers[1]
    saved(module, optimizer, tmp_path / "few.ckpt")
    other, its_optimizer = sharded_module(mesh)
    with pytest.raises(CheckpointCorrupt, match="expected the weights and moments of this run"):
        load_sharded(tmp_path / "few.ckpt", other, [its_optimizer])


def test_a_network_is_whole_only_inside(mesh):
    module, _ = sharded_module(mesh)
    policy = module.policy
    assert is_sharded(policy)
    weight = policy.model.lm_head.weight
    with whole(policy):
        inside = policy.model.lm_head.weight
        assert type(inside) is not type(weight)
        with whole(policy):
            pass
        assert policy.model.lm_head.weight is inside, "the outer one goes on"
        assert torch.equal(inside, full(weight.detach()))
    assert policy.model.lm_head.weight is weight
