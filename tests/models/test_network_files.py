"""Weights with one thing wrong, for a policy and for a judge: each refused by name, in one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gprl_lightning.config import PolicyConfig
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.network_files import require_finite
from gprl_lightning.models.policy import load_policy, save_policy
from gprl_lightning.models.pretrained_preference import load_preference_model, save_preference_model
from tests.tiny import tiny_model, tiny_policy, tiny_tokenizer

LAYER = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    save_policy(tiny_policy(), folder / "policy")
    judge = from_backbone(tiny_model(seed=3).model, tiny_tokenizer(), num_axes=3)
    save_preference_model(judge, folder / "judge")
    return folder


def load(folder: Path):
    if folder.name == "policy":
        return load_policy(PolicyConfig(path=str(folder)), folder, 1.0)
    return load_preference_model(folder)


def tensors(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def plant(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return plant


def value(number: float) -> Callable[[Path], object]:
    return tensors(lambda state: state[LAYER][3].fill_(number))


def settings(name: str, **changes: object) -> Callable[[Path], object]:
    def plant(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return plant


def written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


WEIGHTS = "model.safetensors"
FAULTS = {
    "nan": (value(float("nan")), "NaN or Inf in 1 tensors"),
    "inf": (value(float("inf")), "NaN or Inf in 1 tensors"),
    "a tensor is missing": (tensors(lambda s: s.pop(LAYER)), "lack 1 tensors"),
    "another shape": (tensors(lambda s: s.update({LAYER: s[LAYER][:-1].clone()})), "cannot be"),
    "a layer too many": (settings("config.json", num_hidden_layers=1), "config.json leaves out"),
    "weights are cut": (lambda f: os.truncate(f / WEIGHTS, 5000), "cannot be loaded"),
    "weights are empty": (written(WEIGHTS, b""), "cannot be loaded"),
    "a header too long": (written(WEIGHTS, b"\xff" * 64), "cannot be loaded"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "safetensors"),
    "config is broken": (written("config.json", b'{"model_type": '), "config.json"),
    "config is a list": (written("config.json", b"[]"), "config.json"),
    "tokenizer is broken": (written("tokenizer.json", b"{"), "the tokenizer: cannot be"),
    "tokenizer is missing": (
        lambda f: [file.unlink() for file in f.glob("tokenizer*")],
        "the tokenizer: cannot be",
    ),
}


@pytest.mark.parametrize("name", ["policy", "judge"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_models_files_is_said_in_one_line(name, fault, sound, tmp_path):
    plant, found = FAULTS[fault]
    folder = Path(shutil.copytree(sound / name, tmp_path / name))
    plant(folder)
    with pytest.raises(ConfigError) as refused:
        load(folder)
    message = str(refused.value)
    assert message.startswith(f"{'policy' if name == 'policy' else 'preference_model'}.path=")
    assert found in message and "\n" not in message and len(message) < 700, message


@pytest.mark.parametrize("name", ["policy", "judge"])
def test_another_safetensors_file_beside_a_models_is_not_read(name, sound, tmp_path):
    folder = Path(shutil.copytree(sound / name, tmp_path / name))
    state = load_file(folder / "model.safetensors")
    other = {key: torch.full_like(tensor, 0.5) for key, tensor in state.items()}
    for file in ("a_backup.safetensors", "zz_backup.safetensors"):
        save_file(other, folder / file, metadata={"format": "pt"})
    found, expected = load(folder).state_dict(), load(sound / name).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


def test_the_head_of_a_judge_is_checked_too(sound, tmp_path):
    folder = Path(shutil.copytree(sound / "judge", tmp_path / "judge"))
    tensors(lambda state: state["value_head.weight"][0, 0].fill_(float("nan")))(folder)
    with pytest.raises(ConfigError, match=r"NaN or Inf.*value_head\.weight"):
        load(folder)


def test_a_tied_output_layer_is_not_a_missing_one(tmp_path):
    model = tiny_model()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    policy = tiny_policy()
    policy.model = model
    save_policy(policy, tmp_path / "policy")
    assert "lm_head.weight" not in load_file(tmp_path / "policy" / "model.safetensors")
    load(tmp_path / "policy")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_sum_that_overflows_is_not_taken_for_a_weight_that_does(dtype):
    large = torch.full((1000,), torch.finfo(dtype).max / 4, dtype=dtype)
    require_finite("here", [("large", large), ("ids", torch.arange(3)), ("empty", large[:0])])
    large[7] = float("nan")
    with pytest.raises(ConfigError, match="large"):
        require_finite("here", [("large", large)])


def test_float16_weights_are_not_trained():
    with pytest.raises(ConfigError, match=r"policy\.dtype=float32"):
        PolicyConfig(dtype="float16")
