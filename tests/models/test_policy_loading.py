"""The policy from and to disk, its adapters, and the reference that stays behind."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from gprl_lightning.config import LoraConfig, PolicyConfig
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.policy import Policy, load_policy, reference_of, save_policy
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from tests.models.test_policy import batch
from tests.tiny import Architecture, chat, tiny_policy, tiny_prompts


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    save_policy(tiny_policy("gpt2"), path)
    return path


def test_saved_and_loaded_is_the_same_policy(folder):
    policy, saved = load_policy(PolicyConfig(), folder, 0.7), tiny_policy("gpt2", temperature=0.7)
    assert policy.eos_ids == saved.eos_ids
    inputs = batch(saved)
    torch.testing.assert_close(policy(*inputs), saved(*inputs))


def test_load_refuses(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"policy\.path=.*nothing-here"):
        load_policy(PolicyConfig(), tmp_path / "nothing-here", 1.0)
    with pytest.raises(ConfigError, match=r"policy\.dtype='int8'"):
        load_policy(PolicyConfig(dtype="int8"), folder, 1.0)
    with pytest.raises(ConfigError, match=r"policy\.chat_template=.*no\.jinja"):
        load_policy(PolicyConfig(chat_template=str(tmp_path / "no.jinja")), folder, 1.0)


def test_load_options_take_effect(folder, tmp_path):
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages[0].content }}")
    config = PolicyConfig(dtype="bfloat16", attention="eager", chat_template=str(template))
    policy = load_policy(config, folder, 1.0)
    assert policy.causal_lm.dtype == torch.bfloat16
    assert policy.causal_lm.config._attn_implementation == "eager"
    assert policy.encode_prompts(0, [0], [chat("abc")], 9).input_ids.tolist() == [[4, 5, 6]]


@pytest.mark.parametrize("lora", [None, LoraConfig(r=2, alpha=4)])
def test_gradient_checkpointing_gives_the_same_gradients(folder, lora):
    grads = []
    for checkpointing in (False, True):
        config = PolicyConfig(gradient_checkpointing=checkpointing, lora=lora)
        torch.manual_seed(0)
        policy = load_policy(config, folder, 1.0).train()
        assert policy.causal_lm.is_gradient_checkpointing == checkpointing
        policy(*batch(policy))[0].sum().backward()
        grads.append({n: p.grad for n, p in policy.named_parameters() if p.grad is not None})
    assert grads[0]
    torch.testing.assert_close(grads[0], grads[1])


def test_the_reference_does_not_follow_the_policy():
    policy = tiny_policy()
    reference = reference_of(policy)
    inputs = batch(policy)
    before = policy(*inputs)[0].detach()
    assert torch.equal(reference(*inputs)[0], before)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.01)
    assert not torch.allclose(policy(*inputs)[0], before, atol=1e-3)
    assert torch.equal(reference(*inputs)[0], before)
    assert reference.module.tokenizer is policy.tokenizer


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_the_tokenizer_is_the_one_that_was_saved(architecture, tmp_path):
    """AutoTokenizer puts Qwen2's own splitting rules into a generic tokenizer beside a Qwen2."""
    policy = tiny_policy(architecture)
    tokenizer = policy.tokenizer
    save_policy(policy, tmp_path)
    loaded = load_policy(PolicyConfig(), tmp_path, 1.0).tokenizer
    for text in ("say ab", " two  blanks", "don't 123 stop\n\nnow", "ümläut"):
        assert loaded(text).input_ids == tokenizer(text).input_ids


def lora_policy(folder: Path) -> Policy:
    """A LoRA policy whose adapters have moved away from their start (B = 0)."""
    policy = load_policy(PolicyConfig(lora=LoraConfig(r=2, alpha=4)), folder, 1.0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
                assert "lora_" in name
    return policy


def test_with_lora_the_reference_is_the_network_without_adapters(folder):
    policy = lora_policy(folder)
    reference, plain = reference_of(policy), load_policy(PolicyConfig(), folder, 1.0)
    inputs = batch(policy)
    torch.testing.assert_close(reference(*inputs), plain(*inputs))
    assert not torch.allclose(policy(*inputs)[0], plain(*inputs)[0], atol=1e-2)
    assert not list(reference.parameters())
    trainable = [p for p in policy.parameters() if p.requires_grad]
    policy(*inputs)[0].sum().backward()
    assert trainable and all(p.grad is not None for p in trainable)


def test_with_lora_the_sampler_decodes_with_the_adapters(tmp_path):
    save_policy(tiny_policy("llama"), tmp_path)
    policy = lora_policy(tmp_path)
    assert policy.shares_prompts
    rollout = NativeSampler().sample(
        policy, tiny_prompts(policy, ["hi", "say it again"]), Sampling(4, 16), 1
    )
    prompts = rollout.prompts
    inputs = (
        prompts.input_ids.repeat_interleave(4, 0),
        prompts.mask.repeat_interleave(4, 0),
        rollout.response_ids,
        rollout.response_mask,
    )
    with torch.no_grad():
        own, without = policy(*inputs)[0], reference_of(policy)(*inputs)[0]
    torch.testing.assert_close(rollout.old_logprobs, own, atol=2e-5, rtol=0)
    assert not torch.allclose(rollout.old_logprobs, without, atol=1e-2)


def test_lora_saved_as_adapters_and_merged(folder, tmp_path):
    policy = lora_policy(folder)
    inputs = batch(policy)
    save_policy(policy, tmp_path / "adapters")
    assert (tmp_path / "adapters" / "adapter_model.safetensors").is_file()
    before = copy.deepcopy(policy.state_dict())
    save_policy(policy, tmp_path / "merged", merged=True)
    merged = load_policy(PolicyConfig(), tmp_path / "merged", 1.0)
    torch.testing.assert_close(merged(*inputs), policy(*inputs), atol=1e-4, rtol=0)
    torch.testing.assert_close(dict(policy.state_dict()), dict(before))


def test_with_lora_a_checkpoint_holds_the_adapters_alone(folder):
    policy, other = lora_policy(folder), lora_policy(folder)
    state = policy.state_dict()
    assert state and all("lora_" in name for name in state)
    inputs = batch(policy)
    assert not torch.equal(other(*inputs)[0], policy(*inputs)[0])
    other.load_state_dict(state, strict=True)
    assert torch.equal(other(*inputs)[0], policy(*inputs)[0])
    assert len(load_policy(PolicyConfig(), folder, 1.0).state_dict()) > len(state)


def test_lora_without_peft_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"gprl-lightning\[lora\]"):
        load_policy(PolicyConfig(lora=LoraConfig()), folder, 1.0)
