"""The key of a built-in preference model is made from all that its building reads."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from lightning.pytorch.utilities import rank_zero_only

from gprl_lightning.config.validation import validate
from gprl_lightning.data.preferences import make_pair
from gprl_lightning.sandbox import preference_data
from gprl_lightning.tasks import sandbox_preference_model
from gprl_lightning.tasks.sandbox_preference_model import fingerprint
from tests.composing import composed


def _fingerprint(*overrides: str) -> str:
    return fingerprint(validate(composed(*overrides)))


@pytest.mark.parametrize(
    "override",
    [
        "preference_model.tau=0.2",
        "preference_model.dtype=bfloat16",
        "preference_model.max_tokens=512",
        "preference_model.l2_scope=axis",
        "preference_training.lr=1e-4",
    ],
)
def test_another_option_is_another_model(override):
    assert _fingerprint(override) != _fingerprint()


def test_how_many_texts_are_read_at_once_is_no_other_model():
    assert _fingerprint("preference_model.batch_size=7") == _fingerprint()


def test_a_shortened_file_of_pairs_is_made_again(tmp_path, monkeypatch):
    cfg = composed(
        f"paths.cache={tmp_path}",
        "preference_training.sandbox_pairs=3",
        "preference_training.held_out_pairs=2",
    )
    made = []

    def make(config):
        made.append(1)
        prompt = ({"role": "user", "content": "hi"},)
        return tuple([make_pair(prompt, f"a{i}", f"b{i}") for i in range(n)] for n in (3, 2))

    monkeypatch.setattr(preference_data, "_make", make)
    config = validate(cfg)
    first = preference_data.sandbox_pairs(config)
    assert preference_data.sandbox_pairs(config) == first and len(made) == 1
    (file,) = tmp_path.glob("pairs_*_train.jsonl")
    file.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in first[0][:2]))
    assert len(preference_data.sandbox_pairs(config)[0]) == 3
    assert len(made) == 2


@pytest.mark.parametrize("rank", ["0", "1"])
def test_whichever_of_several_processes_comes_first_trains_it_by_itself(
    tmp_path, monkeypatch, rank
):
    """As under torchrun, which starts all of them at once."""
    several = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    several |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
    for name, value in several.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", int(rank))
    prompt = ({"role": "user", "content": "hi"},)
    pairs = tuple([make_pair(prompt, f"a{i}", f"b{i}") for i in range(n)] for n in (4, 2))
    monkeypatch.setattr(sandbox_preference_model, "sandbox_pairs", lambda config: pairs)
    options = ("batch_size=2", "epochs=1", "evaluate_every=1")
    overrides = [f"preference_training.{option}" for option in options]
    config = validate(composed(f"paths.cache={tmp_path}", *overrides))
    trained = sandbox_preference_model.sandbox_preference_model(config)
    assert len(trained.axes) == 3
    (folder,) = tmp_path.glob("gpm_k3_*/")
    assert not list(tmp_path.glob("*.partial")) and (folder / "model.safetensors").exists()
