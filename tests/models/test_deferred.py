"""Policies without weights: built from a folder, tried on few layers, and read shard by shard."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import distributed as dist
from torch.distributed import checkpoint
from torch.distributed.device_mesh import init_device_mesh

from gprl_lightning.config import LoraConfig, PolicyConfig
from gprl_lightning.core.checksum import checksum
from gprl_lightning.models.decoder import layer_step
from gprl_lightning.models.deferred import read_shards, weights_of
from gprl_lightning.models.network_files import CheckpointError
from gprl_lightning.models.policy import Policy, load_policy, reference_of, save_policy
from gprl_lightning.runtime.sharding import full, shard
from tests.tiny import Architecture, tiny_model, tiny_policy, tiny_prompts, tiny_tokenizer

pytestmark = pytest.mark.skipif(
    not hasattr(checkpoint, "HuggingFaceStorageReader"), reason="PyTorch is older than 2.8"
)
KNOWN = ("llama", "qwen2")


@pytest.fixture
def alone(tmp_path):
    """A process group of one."""
    place = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def loaded(folder, deferred: bool = True, **options) -> Policy:
    return load_policy(PolicyConfig(path=str(folder), **options), folder, 1.0, deferred)


def tied_policy() -> Policy:
    model = tiny_model("llama")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    return Policy(model, tiny_tokenizer())


@pytest.mark.parametrize("arch", get_args(Architecture))
def test_only_known_architectures_wait(tmp_path, arch):
    """Their identity is that of the weights, which is read tensor by tensor."""
    save_policy(tiny_policy(arch), tmp_path)
    waiting, whole = loaded(tmp_path), loaded(tmp_path, deferred=False)
    assert (waiting.weights_from is not None) == (arch in KNOWN)
    assert all(p.is_meta for p in waiting.parameters()) == (arch in KNOWN)
    assert waiting.eos_ids == whole.eos_ids
    assert waiting.shares_prompts == whole.shares_prompts
    assert waiting.head_is_plain == whole.head_is_plain
    assert checksum(weights_of(waiting)) == checksum(whole.named_parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [tiny_policy, tied_policy])
def test_shards_are_the_weights(tmp_path, alone, make, dtype):
    """Policy and reference, read separately, compute what the whole policy does."""
    save_policy(make(), tmp_path)
    whole = loaded(tmp_path, deferred=False, dtype=dtype)
    policy = loaded(tmp_path, dtype=dtype)
    for root in (policy, reference_of(policy).module):
        shard(root, alone, layer_step, None)
        read_shards(root, torch.device("cpu"))
        found = {name: full(p.detach()) for name, p in root.named_parameters()}
        assert found.keys() == dict(whole.named_parameters()).keys()
        assert all(torch.equal(p, found[name]) for name, p in whole.named_parameters())
        assert root.weights_from is None
        prompts = tiny_prompts(whole, ["hi", "sing"])
        given = prompts.input_ids, prompts.mask, prompts.input_ids, prompts.mask
        assert torch.equal(root(*given)[0], whole(*given)[0])


def test_damaged_weights_are_refused(tmp_path, alone):
    policy = tiny_policy()
    with torch.no_grad():
        next(policy.parameters())[3] = torch.nan
    save_policy(policy, tmp_path)
    waiting = loaded(tmp_path)
    shard(waiting, alone, layer_step, None)
    with pytest.raises(CheckpointError, match=r"found NaN or Inf in model\.embed_tokens"):
        read_shards(waiting, torch.device("cpu"))


def test_files_that_do_not_fit_are_loaded_whole_and_refused_there(tmp_path):
    save_policy(tiny_policy(), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    with pytest.raises(CheckpointError, match="the files lack"):
        loaded(tmp_path)


def test_adapters_are_loaded_whole(tmp_path):
    pytest.importorskip("peft")
    save_policy(tiny_policy(), tmp_path)
    assert loaded(tmp_path, lora=LoraConfig(r=2, alpha=4)).weights_from is None
