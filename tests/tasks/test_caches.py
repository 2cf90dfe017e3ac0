"""What is made into the cache: complete and read-only works; damaged says what to delete."""

from __future__ import annotations

import os

import pytest

from gprl_lightning.config import PolicyConfig
from gprl_lightning.config.validation import validate
from gprl_lightning.data.preferences import make_pair
from gprl_lightning.errors import ConfigError
from gprl_lightning.models import builtin
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.policy import load_policy, save_policy
from gprl_lightning.models.pretrained_preference import save_preference_model
from gprl_lightning.sandbox import preference_data
from gprl_lightning.tasks import sandbox_preference_model as built_in
from tests.composing import composed
from tests.tiny import tiny_model, tiny_policy, tiny_tokenizer


@pytest.fixture
def config(tmp_path):
    counts = ("sandbox_pairs=3", "held_out_pairs=2")
    overrides = [f"preference_training.{count}" for count in counts]
    return validate(composed(f"paths.cache={tmp_path}", *overrides))


@pytest.fixture
def no_locks(monkeypatch):
    """As in a folder that cannot be written to: no lock can be taken there."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    for module in (builtin, preference_data):
        monkeypatch.setattr(module, "FileLock", refuse)


def judge_in_cache(config, tmp_path):
    options = config.preference_model
    judge = from_backbone(tiny_model(seed=3).model, tiny_tokenizer(), num_axes=options.num_axes)
    folder = tmp_path / f"{options.kind}_k{options.num_axes}_{built_in.fingerprint(config)}"
    save_preference_model(judge, folder)
    return folder


def test_a_complete_judge_in_a_read_only_cache_works(config, tmp_path, no_locks):
    judge_in_cache(config, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert built_in.sandbox_preference_model(config).num_axes == config.preference_model.num_axes
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_judge_that_was_cut_says_what_to_delete(size, config, tmp_path):
    folder = judge_in_cache(config, tmp_path)
    os.truncate(folder / "model.safetensors", size)
    with pytest.raises(ConfigError, match=r"paths\.cache: .*Delete that folder") as refused:
        built_in.sandbox_preference_model(config)
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)


def test_smollm2_in_a_read_only_cache_works_and_a_cut_one_says_what_to_delete(tmp_path, no_locks):
    save_policy(tiny_policy(), tmp_path / "smollm2_135m")
    folder = builtin.policy_folder("smollm2_135m", str(tmp_path))
    config = PolicyConfig(path="smollm2_135m")
    load_policy(config, folder, 1.0)
    os.truncate(tmp_path / "smollm2_135m" / "model.safetensors", 5000)
    with pytest.raises(ConfigError, match=r"paths\.cache: .*smollm2_135m.*Delete that folder"):
        load_policy(config, folder, 1.0)
    with pytest.raises(PermissionError):
        builtin.policy_folder("smollm2_135m", str(tmp_path / "other"))


def test_pairs_in_a_read_only_cache_work_and_damaged_ones_say_what_to_delete(
    config, tmp_path, monkeypatch, request
):
    parts = tuple([make_pair("hi", f"a{i}", f"b{i}") for i in range(n)] for n in (3, 2))
    monkeypatch.setattr(preference_data, "_make", lambda _: parts)
    first = preference_data.sandbox_pairs(config)
    request.getfixturevalue("no_locks")
    assert preference_data.sandbox_pairs(config) == first
    (file,) = tmp_path.glob("pairs_*_train.jsonl")
    content = bytearray(file.read_bytes())
    content[10:30] = b"\0" * 20
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"paths\.cache: .*Delete these files.*_train\.jsonl:1"):
        preference_data.sandbox_pairs(config)
