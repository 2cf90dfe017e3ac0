"""Networks that load and cannot be trained here: refused at load, each in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from gprl_lightning.config import LoraConfig, PolicyConfig
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.causal_lm import require_causal
from gprl_lightning.models.policy import Policy, load_policy, save_policy
from gprl_lightning.rollout.plain_decoding import require_decodable
from tests.tiny import (
    ARCHITECTURES,
    BOS,
    EOS,
    VOCABULARY,
    chat,
    tiny_model,
    tiny_policy,
    tiny_tokenizer,
)

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
SPECIAL = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": 3}
HEADS = {"num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 512}


def model(kind: str, **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPE, **SPECIAL, **options)
    return AutoModelForCausalLM.from_config(config).eval()


def folder_of(network, folder: Path) -> Path:
    network.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def refused(folder: Path, **options) -> str:
    with pytest.raises(ConfigError) as error:
        require_decodable(load_policy(PolicyConfig(**options), folder, 1.0))
    message = str(error.value)
    assert "\n" not in message and len(message) < 700
    return message


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoder_is_no_policy(kind, tmp_path):
    message = refused(folder_of(model(kind, **HEADS), tmp_path))
    assert message.startswith(f"policy.path='{tmp_path}'") and "behind a token" in message


def test_a_decoder_of_the_same_kind_is_one(tmp_path):
    network = model("bert", is_decoder=True, **HEADS)
    load_policy(PolicyConfig(), folder_of(network, tmp_path), 1.0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_models_pass_both_checks(architecture, dtype):
    network = tiny_model(architecture).to(dtype)
    require_causal(network, "policy.path")
    policy = Policy(network, tiny_tokenizer())
    policy.shares_prompts = False
    require_decodable(policy)


def test_a_model_without_a_cache_of_keys_is_refused_or_right(tmp_path):
    folder = folder_of(model("mamba", state_size=8), tmp_path)
    message = refused(folder)
    assert message.startswith("policy.path: expected") and "MambaForCausalLM" in message
    assert "choose another policy.path" in message.lower()


def test_a_state_that_padding_gets_into_is_refused(monkeypatch):
    policy = tiny_policy("gpt2")
    require_decodable(policy)
    whole = type(policy.causal_lm).forward

    def forward(self, *args, attention_mask=None, **kwargs):
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(type(policy.causal_lm), "forward", forward)
    with pytest.raises(ConfigError, match="token by token, too; found others"):
        require_decodable(policy)


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (["q_porj"], "no layer 'q_porj'"),
        (["q_proj", "v_porj"], "no layer 'v_porj'"),
        ("q_porj", "not found"),
        ("q_proj(", "found: "),
        (["input_layernorm"], "not supported"),
        ([], "found: "),
    ],
)
def test_targets_of_adapters_that_are_not_there_are_refused_with_those_that_are(
    targets, found, tmp_path
):
    save_policy(tiny_policy(), tmp_path)
    message = refused(tmp_path, lora=LoraConfig(target_modules=targets))
    assert message.startswith("policy.lora.target_modules=") and found in message
    assert "q_proj, k_proj, v_proj, o_proj" in message


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "mlp.up_proj"], r".*\.1\..*v_proj"])
def test_targets_that_are_there_are_taken(targets, tmp_path):
    save_policy(tiny_policy(), tmp_path)
    policy = load_policy(PolicyConfig(lora=LoraConfig(target_modules=targets)), tmp_path, 1.0)
    assert any(p.requires_grad for p in policy.parameters())


SETTINGS = {
    "eos_token_id of letters": ("config.json", {"eos_token_id": "2"}),
    "eos_token_id of letters, in the generation's": (
        "generation_config.json",
        {"eos_token_id": "2"},
    ),
    "an eos_token_id behind the vocabulary": ("generation_config.json", {"eos_token_id": [1, 999]}),
    "no layers": ("config.json", {"num_hidden_layers": 0}),
    "a vocabulary of letters": ("config.json", {"vocab_size": "many"}),
    "layers below 0": ("config.json", {"num_hidden_layers": -1}),
    "heads that do not divide": ("config.json", {"num_attention_heads": 5}),
    "a hidden size of 0": ("config.json", {"hidden_size": 0}),
    "another architecture": ("config.json", {"model_type": "t5"}),
    "no such architecture": ("config.json", {"model_type": "nope"}),
    "no such activation": ("config.json", {"hidden_act": "nope"}),
    "a rope that is none": ("config.json", {"rope_parameters": {"rope_type": "nope"}}),
    "a special token of numbers": ("tokenizer_config.json", {"eos_token": 5}),
    "templates by name, none by default": ("tokenizer_config.json", {"chat_template": {"a": "b"}}),
}


@pytest.mark.parametrize("fault", SETTINGS)
def test_settings_of_a_model_that_cannot_be_are_refused_by_its_path(fault, tmp_path):
    save_policy(tiny_policy(), tmp_path)
    name, changes = SETTINGS[fault]
    if "chat_template" in changes:
        (tmp_path / "chat_template.jinja").unlink()
    file = tmp_path / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    assert refused(tmp_path).startswith("policy.")


@pytest.mark.parametrize("name", ["bos", "unk", "pad", "sep"])
def test_a_special_token_that_is_empty_is_none(name, tmp_path):
    save_policy(tiny_policy(), tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), f"{name}_token": ""}))
    policy = load_policy(PolicyConfig(), tmp_path, 1.0)
    assert policy.chat.text(chat("a<eos>b"), True) == "<bos>user:a<eos>b<end>assistant:"
    assert policy.chat.tokens([chat("a<eos>b")]) == tiny_policy().chat.tokens([chat("a<eos>b")])


@pytest.mark.parametrize("content", ["{", "[]", '{"eos_token_id": 1', "\0\0"])
def test_a_damaged_generation_config_loses_no_end_of_turn_silently(content, tmp_path):
    save_policy(tiny_policy(), tmp_path)
    (tmp_path / "generation_config.json").write_text(content)
    assert "generation_config.json: cannot be loaded" in refused(tmp_path)


def test_pickled_weights_are_read_as_plain_ones(tmp_path):
    policy = tiny_policy()
    save_policy(policy, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(policy.causal_lm.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = load_policy(PolicyConfig(), tmp_path, 1.0).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in policy.state_dict().items())
