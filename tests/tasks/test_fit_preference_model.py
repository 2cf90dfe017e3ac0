"""The training of a preference model: what the command and the training on demand share."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

from gprl_lightning.config import Config
from gprl_lightning.config.validation import validate
from gprl_lightning.core.preference import axis_pairs
from gprl_lightning.data.preferences import make_pair
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.canonical_axes import turn_axes
from gprl_lightning.models.policy import save_policy
from gprl_lightning.tasks.fit_preference_model import fit_preference_model, new_preference_model
from tests.composing import composed
from tests.tiny import ARCHITECTURES, tiny_model, tiny_policy, tiny_tokenizer

PAIRS = [make_pair(f"say {i}", f"yes {i}{i}", f"no {3 * i}") for i in range(16)]


def config_of(**options: object) -> Config:
    return validate(composed(*(f"preference_training.{k}={v}" for k, v in options.items())))


def save_backbone(arch, folder: Path, layers: int) -> None:
    tiny_model(arch, layers=layers).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_first_layers_of_a_backbone_load_as_any_other(arch, tmp_path):
    from gprl_lightning.models.pretrained_preference import (
        load_preference_model,
        save_preference_model,
    )

    save_backbone(arch, tmp_path / "whole", layers=4)
    config = config_of(backbone_layers=2)
    model = new_preference_model(config, PAIRS, str(tmp_path / "whole"))
    save_preference_model(model, tmp_path / "cut")
    found = load_preference_model(tmp_path / "cut")
    assert found.backbone.config.num_hidden_layers == 2
    chosen = [pair.chosen for pair in PAIRS]
    assert found.embed_conversations(chosen)[0].equal(model.eval().embed_conversations(chosen)[0])


def test_no_more_layers_than_the_backbone_has(tmp_path):
    save_policy(tiny_policy(), tmp_path)
    with pytest.raises(ConfigError, match=r"backbone_layers=3: expected at most 2"):
        new_preference_model(config_of(backbone_layers=3), PAIRS, str(tmp_path))


def test_options_of_the_model_reach_it(tmp_path):
    save_policy(tiny_policy(), tmp_path)
    given = ("l2_scope=axis", "gate_temperature=0.5", "values=answer_only")
    overrides = [f"preference_model.{option}" for option in given]
    plain, other = (
        new_preference_model(validate(composed(*o)), PAIRS, str(tmp_path)) for o in ((), overrides)
    )
    found = [(m.l2_scope, m.gate_temperature, m.text.values) for m in (plain, other)]
    assert found == [("all", 1.0, "conversation"), ("axis", 0.5, "answer_only")]


def test_spread_angles_is_what_the_head_starts_with(tmp_path):
    """Without it rows are orthogonal, and the states' common part gives all responses one angle."""
    save_policy(tiny_policy(), tmp_path)
    chosen = [pair.chosen for pair in PAIRS]
    spread, orthogonal = (
        new_preference_model(config_of(spread_angles=s), PAIRS, str(tmp_path))
        for s in ("true", "false")
    )
    gram = orthogonal.value_head.weight @ orthogonal.value_head.weight.T
    torch.testing.assert_close(gram, torch.eye(6), atol=1e-5, rtol=0)
    lengths = [
        axis_pairs(m.embed_conversations(chosen)[0]).mean(0).norm() for m in (spread, orthogonal)
    ]
    assert lengths[0] < 0.5 * lengths[1]


class Rows(L.Callback):
    """Rows of each forward pass, and optimiser steps."""

    def __init__(self) -> None:
        self.rows, self.steps = [], 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rows.append(len(batch))
        self.steps = trainer.global_step


@pytest.mark.parametrize(("micro", "forwards"), [("null", [8, 8]), (2, [2] * 8)])
def test_micro_batches_add_up_to_a_batch(micro, forwards, tmp_path):
    save_policy(tiny_policy(), tmp_path / "policy")
    config = config_of(batch_size=8, micro_batch_size=micro, epochs=1, evaluate_every=1)
    model = new_preference_model(config, PAIRS, str(tmp_path / "policy"))
    seen = Rows()

    def make_trainer(callbacks, **kwargs):
        return L.Trainer(callbacks=[*callbacks, seen], accelerator="cpu", devices=1, **kwargs)

    fit_preference_model(config, model, PAIRS, PAIRS, make_trainer, tmp_path / "fit")
    assert (seen.rows, seen.steps) == (forwards, 2)


@pytest.mark.parametrize(("on", "forwards"), [(False, 1), (True, 2)])
def test_gradient_checkpointing_begins_a_layer_twice(on, forwards, tmp_path):
    save_policy(tiny_policy(), tmp_path / "policy")
    config = config_of(batch_size=16, epochs=1, evaluate_every=1, gradient_checkpointing=on)
    model = new_preference_model(config, PAIRS, str(tmp_path / "policy"))
    calls = []
    mlp = model.backbone.layers[0].mlp
    mlp.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    make_trainer = partial(L.Trainer, accelerator="cpu", devices=1)
    fit_preference_model(config, model, PAIRS, PAIRS, make_trainer, tmp_path / "fit")
    assert sum(calls) == forwards  # the evaluation's have no gradient


TOLD = [make_pair(p.prompt, *p.answers, attributes={"tone": 1.0, "size": 0.0}) for p in PAIRS]


@pytest.mark.parametrize(
    ("option", "turned", "names"),
    [
        ({}, False, ()),
        ({"canonical_axes": "principal"}, True, ()),
        ({"canonical_axes": "joint"}, True, ()),
        ({"axis_attributes": "[size,tone]"}, False, ("size", "tone")),
    ],
    ids=str,
)
def test_what_training_says_of_the_axes_stays_with_the_model(option, turned, names, tmp_path):
    """The rotation is found after training, on the weights that are kept."""
    save_policy(tiny_policy(), tmp_path / "policy")
    config = config_of(batch_size=16, epochs=1, evaluate_every=1, **option)
    model = new_preference_model(config, TOLD, str(tmp_path / "policy"))
    make_trainer = partial(L.Trainer, accelerator="cpu", devices=1)
    fit_preference_model(config, model, TOLD, TOLD, make_trainer, tmp_path / "fit")
    assert (model.rotation is not None, model.attributes) == (turned, names)
    if turned:
        kept = model.rotation
        turn_axes(model, [(p.chosen, p.rejected) for p in TOLD], option["canonical_axes"])
        torch.testing.assert_close(model.rotation, kept)
