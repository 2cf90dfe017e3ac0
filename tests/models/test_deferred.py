"""Networks without weights: built from a folder, tried on few layers, and read shard by shard."""

from __future__ import annotations

from functools import partial
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import distributed as dist
from torch.distributed import checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from gprl_lightning.config import LoraConfig, PolicyConfig
from gprl_lightning.core.batch import Prompt
from gprl_lightning.core.checksum import checksum
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.decoder import layer_step
from gprl_lightning.models.deferred import (
    deferred_network,
    read_shards,
    sources_wait,
    weights_of,
)
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.network_files import CheckpointError
from gprl_lightning.models.policy import Policy, load_policy, reference_of, save_policy
from gprl_lightning.models.pretrained_preference import (
    load_preference_model,
    save_preference_model,
)
from gprl_lightning.models.reading_checks import require_readable
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.runtime.sharding import full, layers_of, shard
from tests.tiny import (
    Architecture,
    chat,
    tiny_model,
    tiny_policy,
    tiny_prompts,
    tiny_tokenizer,
)

pytestmark = pytest.mark.skipif(
    not hasattr(checkpoint, "HuggingFaceStorageReader"), reason="PyTorch is older than 2.8"
)


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


ADAPTERS = LoraConfig(r=2, alpha=4)


@pytest.mark.parametrize("lora", [None, ADAPTERS])
@pytest.mark.parametrize("arch", get_args(Architecture))
def test_every_architecture_waits(tmp_path, arch, lora):
    """Their identity is that of the weights, which is read tensor by tensor; adapters are there,
    and are those of a network that is loaded whole."""
    if lora:
        pytest.importorskip("peft")
    save_policy(tiny_policy(arch), tmp_path)
    found = []
    for deferred in (True, False):
        torch.manual_seed(0)
        found += [loaded(tmp_path, deferred, lora=lora), torch.rand(1)]
    waiting, after, whole, afterwards = found
    assert all(p.is_meta != p.requires_grad for p in waiting.parameters()) or lora is None
    assert all(p.is_meta for p in waiting.parameters()) or lora is not None
    assert whole.weights_from is None
    assert torch.equal(after, afterwards)
    assert waiting.eos_ids == whole.eos_ids
    assert waiting.shares_prompts == whole.shares_prompts
    assert waiting.head_is_plain == whole.head_is_plain
    assert checksum(weights_of(waiting)) == checksum(whole.named_parameters())
    same = zip(waiting.buffers(), whole.buffers(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)


def test_an_adapter_of_the_output_layer_is_seen(tmp_path):
    pytest.importorskip("peft")
    save_policy(tiny_policy(), tmp_path)
    lora = LoraConfig(r=2, alpha=4, target_modules=["lm_head"])
    assert not loaded(tmp_path, lora=lora).head_is_plain


@pytest.mark.parametrize(
    ("make", "dtype", "lora"),
    [
        (tiny_policy, "float32", None),
        (tiny_policy, "bfloat16", ADAPTERS),
        (tied_policy, "bfloat16", None),
        (tied_policy, "float32", ADAPTERS),
        (partial(tiny_policy, "gemma2"), "float32", None),
        (partial(tiny_policy, "gpt2"), "bfloat16", None),
    ],
)
def test_shards_are_the_weights(tmp_path, alone, make, dtype, lora):
    """Policy and reference, read separately, compute what the whole policy does."""
    if lora:
        pytest.importorskip("peft")
    save_policy(make(), tmp_path)
    read = []
    for deferred in (False, True):
        torch.manual_seed(0)
        read.append(loaded(tmp_path, deferred, dtype=dtype, lora=lora))
    whole, policy = read
    roots = [policy] if lora else [policy, reference_of(policy).module]
    for root in roots:
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


def test_what_is_loaded_whole_says_so(tmp_path, caplog):
    """Files that name their tensors in a way of their own."""
    policy = tiny_policy()
    save_policy(policy, tmp_path)
    own = {f"net.{name}": p.detach() for name, p in policy.causal_lm.named_parameters()}
    save_file(own, tmp_path / "model.safetensors", metadata={"format": "pt"})
    given = AutoModelForCausalLM, "policy.path", tmp_path, torch.float32, None
    assert deferred_network(*given) is None
    assert "is read whole by each process, and then sharded: its files name" in caplog.text


# Preference models --------------------------------------------------------------------------------


def judge_files(folder, arch: Architecture, zeros: bool = False) -> None:
    judge = from_backbone(tiny_model(arch).base_model, tiny_tokenizer(), num_axes=3)
    if zeros:
        judge.value_head.weight.data.zero_()
    save_preference_model(judge, folder)


def judged(folder, wait: bool = True):
    with sources_wait(wait):
        return load_preference_model(folder)


@pytest.mark.parametrize("arch", get_args(Architecture))
def test_a_preference_model_waits(tmp_path, alone, arch):
    """Its identity is known, and once it is read it scores as the whole one does."""
    judge_files(tmp_path, arch)
    waiting, whole = judged(tmp_path), judged(tmp_path, wait=False)
    assert all(p.is_meta for p in waiting.backbone.parameters())
    assert waiting.identity() == whole.identity()
    assert waiting.shares_prompts == whole.shares_prompts
    shard(waiting, alone, layer_step, None)
    read_shards(waiting, torch.device("cpu"))
    asked = [chat("hi"), chat("sing")], [["a", "bc"], ["d", "e."]]
    found, expected = waiting.embed(*asked), whole.embed(*asked)
    assert torch.equal(found.vectors, expected.vectors)
    assert torch.equal(found.eigenvalues, expected.eigenvalues)


def test_what_needs_weights_is_checked_once_they_are_there(tmp_path, alone):
    judge_files(tmp_path, "llama", zeros=True)
    prompts = [Prompt(0, chat("hi"))]
    with pytest.raises(ConfigError, match="found the same for two"):
        require_readable(tiny_policy(), judged(tmp_path, wait=False), prompts)
    waiting = judged(tmp_path)
    require_readable(tiny_policy(), waiting, prompts)
    shard(waiting, alone, layer_step, None)
    with pytest.raises(ConfigError, match="found the same for two"):
        read_shards(waiting, torch.device("cpu"))


# Layer by layer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_layers_are_gathered_one_by_one(tmp_path, alone, monkeypatch, arch):
    """The same samples, with one layer's weights at a time in the place of all."""
    save_policy(tiny_policy(arch), tmp_path)
    samples, most = [], []
    for gather in (True, False):
        policy = loaded(tmp_path)
        shard(policy, alone, layer_step, None, gather)
        read_shards(policy, torch.device("cpu"))
        held: list[int] = []
        for layer in layers_of(policy):
            linear = next(
                m for m in layer.modules() if next(m.parameters(recurse=False), None) is not None
            )
            linear.register_forward_pre_hook(lambda *_, p=policy, h=held: h.append(at_hand(p)))
        prompts = tiny_prompts(policy, ["hi", "sing"])
        samples.append(NativeSampler().sample(policy, prompts, Sampling(4, 8), seed=0))
        most.append(max(held))
    assert torch.equal(samples[0].response_ids, samples[1].response_ids)
    assert torch.equal(samples[0].old_logprobs, samples[1].old_logprobs)
    assert most == [len(layers_of(policy)), 1]


def at_hand(policy: Policy) -> int:
    """Return how many of its layers are here with all of their weights."""
    layers = [[*layer.parameters()] for layer in layers_of(policy)]
    return sum(not any(isinstance(p, DTensor) for p in layer) for layer in layers)
