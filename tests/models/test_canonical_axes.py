"""Turned axes are part of the model: scores stay, and the rotation is saved, named and checked."""

from __future__ import annotations

import json

import pytest
import torch

from gprl_lightning.core.axis_rotation import random_rotation
from gprl_lightning.models.canonical_axes import turn_axes
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.preference_files import CheckpointError
from gprl_lightning.models.pretrained_preference import load_preference_model, save_preference_model
from tests.tiny import chat, tiny_model, tiny_tokenizer

RESPONSES = ["Blue", "Red, I think", "Green", "no"]
PAIRS = [
    (
        (*chat(f"Question {i}"), {"role": "assistant", "content": "yes " * (i % 3 + 1)}),
        (*chat(f"Question {i}"), {"role": "assistant", "content": "no, never, " + "x" * i}),
    )
    for i in range(24)
]


def model_of(axes: int = 3):
    model = from_backbone(tiny_model().model, tiny_tokenizer(), num_axes=axes).eval()
    torch.nn.init.normal_(model.prompt_head.weight, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("axes", ["principal", "joint"])
def test_no_score_changes_and_the_axes_do(axes):
    model = model_of()
    before = model.compare("Name a colour", RESPONSES)
    turn_axes(model, PAIRS, axes)
    after = model.compare("Name a colour", RESPONSES)
    torch.testing.assert_close(after.score, before.score, atol=1e-6, rtol=0)
    assert (after.pairwise_scores - before.pairwise_scores).abs().max() > 1e-3
    assert float(after.eigenvalues.sum()) == pytest.approx(1, abs=1e-6)
    first = model.rotation
    turn_axes(model, PAIRS, axes)  # found from the heads' own axes, not from the turned ones
    assert torch.equal(model.rotation, first)
    turn_axes(model, PAIRS, "none")
    assert model.rotation is None


def test_the_rotation_and_the_attributes_are_saved(tmp_path):
    model = model_of()
    plain = model.identity()
    turn_axes(model, PAIRS, "joint")
    model.attributes = ("tone", "length")
    save_preference_model(model, tmp_path)
    again = load_preference_model(tmp_path)
    assert torch.equal(again.rotation, model.rotation)
    assert again.attributes == ("tone", "length")
    first, second = (m.compare("Name a colour", RESPONSES) for m in (model, again))
    assert torch.equal(first.vectors, second.vectors)
    assert torch.equal(first.eigenvalues, second.eigenvalues)
    assert model.identity() == again.identity() != plain


@pytest.mark.parametrize(
    ("rotation", "found"),
    [
        ([[[1.0, 0.0]]], "expected a preference_model.rotation of 3 axes"),
        ([[[2.0, 0.0]]], "expected a unitary matrix"),
        ("turned", "expected a unitary matrix"),
        ([[1.0, 0.0], [0.0]], "expected a unitary matrix"),
    ],
)
def test_a_file_that_holds_no_rotation_is_refused(tmp_path, rotation, found):
    save_preference_model(model_of(), tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["preference_model"]["rotation"] = rotation
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=found):
        load_preference_model(tmp_path)


def test_a_rotation_of_a_saved_model_takes_the_vectors_dtype():
    model = model_of()
    model.rotation = random_rotation(3, torch.Generator().manual_seed(0))
    assert model.compare("Name a colour", RESPONSES).vectors.dtype == torch.float32
