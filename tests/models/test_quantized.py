"""QLoRA: composed, refused where it cannot be, planned; and, where bitsandbytes is, sampled from,
trained and saved like any policy with adapters."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

from gprl_lightning.config import LoraConfig, PolicyConfig
from gprl_lightning.config.validation import validate
from gprl_lightning.errors import ConfigError
from gprl_lightning.models import quantized
from gprl_lightning.models.policy import load_policy, save_policy
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.tasks.build import require_device
from tests.composing import composed
from tests.tiny import tiny_model, tiny_prompts, tiny_tokenizer

CONFIG = PolicyConfig(lora=LoraConfig(r=4, alpha=8), quantization="nf4")


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama", hidden=128).save_pretrained(tmp_path / "policy")
    tiny_tokenizer().save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_it_is_one_word():
    config = validate(composed("lora=qlora"))
    assert config.policy.quantization == "nf4" and config.policy.lora is not None
    assert validate(composed("lora=adapters")).policy.quantization is None


def test_it_is_refused_without_adapters_a_gpu_or_bitsandbytes(folder, monkeypatch):
    with pytest.raises(ConfigError, match="lora=qlora"):
        PolicyConfig(quantization="nf4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"policy\.quantization=nf4: expected a CUDA GPU"):
        require_device(OmegaConf.create({"accelerator": "cpu"}), CONFIG)
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gprl-lightning\[bitsandbytes\]"):
        load_policy(CONFIG, folder, 1.0)


def test_what_is_held_in_4_bits_are_the_layers_matrices():
    model = tiny_model("llama")
    named = [(n, p) for n, p in model.named_parameters() if n.endswith("proj.weight")]
    assert quantized.quantizable(model) == sum(p.numel() for _, p in named) > 0


def test_a_policy_in_4_bits_samples_learns_and_is_saved(folder, tmp_path, monkeypatch):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    # Some CPUs lay the weights out anew at the first forward pass; a GPU, which is asked for, not.
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)
    policy = load_policy(CONFIG, folder, 1.0)
    assert quantized.is_quantized(policy.model)
    frozen = {n: p.detach().clone() for n, p in policy.named_parameters() if not p.requires_grad}
    trained = [p for p in policy.parameters() if p.requires_grad]
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trained:
            parameter += 0.1 * torch.randn_like(parameter)
    prompts = tiny_prompts(policy, ["hi", "how are you?"])
    rollouts = [
        NativeSampler(fixed_shapes=fixed).sample(policy, prompts, Sampling(4, 12), 1)
        for fixed in (True, False)
    ]
    assert torch.equal(rollouts[0].response_ids, rollouts[1].response_ids)
    rollout = rollouts[0]
    given = prompts.input_ids.repeat_interleave(4, 0), prompts.mask.repeat_interleave(4, 0)
    logprobs, _ = policy(*given, rollout.response_ids, rollout.response_mask)
    torch.testing.assert_close(logprobs, rollout.old_logprobs, rtol=0, atol=1e-4)
    logprobs.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    held = dict(policy.named_parameters())
    assert all(torch.equal(held[name], before) for name, before in frozen.items())
    assert all("lora_" in name for name in policy.state_dict())
    policy.load_state_dict(policy.state_dict())
    save_policy(policy, tmp_path / "saved", merged=True)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert not quantized.is_quantized(plain) and "quantization_config" not in vars(plain.config)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        ours, theirs = policy.causal_lm(input_ids=ids).logits, plain(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
