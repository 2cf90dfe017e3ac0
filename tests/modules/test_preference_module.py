"""The loss of the authors' code, training that resumes exactly, cycles that no scalar can learn."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from gprl_lightning.core.pairs import pair_accuracy, pair_loss, pair_scores
from gprl_lightning.data.pair_loader import PairLoader, collate_pairs
from gprl_lightning.errors import ConfigError
from gprl_lightning.modules.preference import PreferenceModule
from tests.cycles import BRADLEY_TERRY_CEILING, cycle_model, cyclic_pairs, fit

GOLDEN = Path(__file__).parents[1] / "fixtures" / "gpm_reference" / "golden.json"
LOSSES = json.loads(GOLDEN.read_text())["losses"]


def test_bradley_terry_loss_of_the_authors_code():
    chosen, rejected = (torch.tensor(LOSSES["bt"][side]) for side in ("chosen", "rejected"))
    expected = LOSSES["bt"]["loss"]["PairWiseLoss"]
    scores = chosen - rejected
    ones, zeros = torch.ones_like(scores), torch.zeros_like(scores)
    assert pair_loss(scores, ones, zeros, 0.1).mean().item() == pytest.approx(
        expected["loss"], abs=1e-5
    )
    assert torch.sigmoid(scores / 0.1).mean().item() == pytest.approx(expected["prob"], abs=1e-5)


@pytest.mark.parametrize("width", ["d2", "d4"])
def test_preference_loss_of_the_authors_code(width):
    chosen, rejected = (torch.tensor(LOSSES[width][side]) for side in ("chosen", "rejected"))
    vectors = torch.stack([chosen, rejected], 1).flatten(0, 1)
    scores = pair_scores(vectors, torch.ones(len(vectors), vectors.shape[1] // 2))
    ones, zeros = torch.ones_like(scores), torch.zeros_like(scores)
    for expected in LOSSES[width]["loss"].values():
        assert pair_loss(scores, ones, zeros, 0.1).mean().item() == pytest.approx(
            expected["loss"], abs=1e-5
        )
        assert torch.sigmoid(scores / 0.1).mean().item() == pytest.approx(
            expected["prob"], abs=1e-5
        )


def test_soft_labels_and_margins_by_hand():
    """s = 0.3, τ = 0.5. p = 0.8: −0.8 ln σ(0.6) − 0.2 ln σ(−0.6). m = 0.1: −ln σ(0.4)."""
    scores = torch.tensor([0.3, 0.3])
    found = pair_loss(scores, torch.tensor([0.8, 1.0]), torch.tensor([0.0, 0.1]), 0.5)

    def minus_log_sigmoid(x):
        return math.log1p(math.exp(-x))

    expected = [
        0.8 * minus_log_sigmoid(0.6) + 0.2 * minus_log_sigmoid(-0.6),
        minus_log_sigmoid(0.4),
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_turned_pair_with_the_turned_label_has_the_same_loss():
    scores, labels, margins = torch.randn(5), torch.rand(5), torch.rand(5)
    torch.testing.assert_close(
        pair_loss(scores, labels, margins, 0.1), pair_loss(-scores, 1 - labels, margins, 0.1)
    )


def test_accuracy_counts_the_undecided_as_half():
    scores = torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0])
    labels = torch.tensor([1.0, 1.0, 1.0, 0.5, 0.2])
    assert pair_accuracy(scores, labels).tolist() == [1.0, 0.0, 0.5, 0.5, 1.0]


@pytest.mark.parametrize("kind", ["gpm", "bradley_terry"])
def test_training_scores_are_those_of_compare(kind):
    """The pair score that is trained is the score that is later given, in whatever batch."""
    pairs = cyclic_pairs(4, 0)
    model = cycle_model(kind, 2 if kind == "gpm" else 1)
    if model.prompt_head is not None:
        torch.nn.init.normal_(model.prompt_head.weight)
    module = PreferenceModule(model, partial(torch.optim.SGD, lr=0.1), num_batches=1)
    trained = module.scores(collate_pairs(pairs, model.text))
    compared = [model.compare(pair.prompt, pair.answers).score[0, 1] for pair in pairs]
    torch.testing.assert_close(trained, torch.stack(compared), rtol=0, atol=1e-5)


def gradients(module, batch):
    module.zero_grad()
    scores = module.scores(batch)
    pair_loss(scores, batch.labels, batch.margins, module.model.tau).mean().backward()
    return [p.grad.clone() for p in module.parameters()]


def test_gradient_checkpointing_changes_no_gradient():
    pairs = cyclic_pairs(3, 0)
    plain, saving = (
        PreferenceModule(
            cycle_model(),
            partial(torch.optim.SGD, lr=0.1),
            num_batches=1,
            gradient_checkpointing=on,
        ).train()
        for on in (False, True)
    )
    assert saving.model.backbone.is_gradient_checkpointing
    batch = collate_pairs(pairs, plain.model.text)
    for a, b in zip(gradients(plain, batch), gradients(saving, batch), strict=True):
        torch.testing.assert_close(a, b)


def test_order_of_pairs_changes_no_gradient():
    pairs = cyclic_pairs(3, 0)
    module = PreferenceModule(cycle_model(), partial(torch.optim.SGD, lr=0.1), num_batches=1)
    there, back = (collate_pairs(p, module.model.text) for p in (pairs, pairs[::-1]))
    for a, b in zip(gradients(module, there), gradients(module, back), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def step_gradients(module, batch):
    module.zero_grad()
    module.log = lambda *_, **__: None  # outside of a trainer
    module.training_step(batch, 0).backward()
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


AXIS_OPTIONS = {"decorrelation": 0.5, "gate_information": 0.5, "attribute_weight": 0.5}


@pytest.mark.parametrize("option", AXIS_OPTIONS)
def test_each_option_of_the_axes_changes_the_step(option):
    pairs = [
        replace(pair, attributes={"a": float(i % 2), "b": 1.0})
        for i, pair in enumerate(cyclic_pairs(4, 0))
    ]
    model = cycle_model("gpm", 2)
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(model.prompt_head.weight, std=0.1, generator=generator)
    batch = collate_pairs(pairs, model.text, ["a", "b"])
    make = partial(PreferenceModule, model, partial(torch.optim.SGD, lr=0.1), num_batches=1)
    off = dict.fromkeys(AXIS_OPTIONS, 0.0)
    plain, changed = (
        step_gradients(make(**options), batch)
        for options in (off, off | {option: AXIS_OPTIONS[option]})
    )
    assert (plain - changed).norm() > 1e-3 * plain.norm()


def test_axes_that_nobody_asks_anything_of_train_on_the_labels_alone():
    module = PreferenceModule(cycle_model(), partial(torch.optim.SGD, lr=0.1), num_batches=1)
    batch = collate_pairs(cyclic_pairs(3, 0), module.model.text)
    labels_alone = torch.cat([g.flatten() for g in gradients(module, batch)])
    assert torch.equal(step_gradients(module, batch), labels_alone)


def test_a_pair_without_the_attribute_asked_for_is_refused():
    pairs = [replace(pair, attributes={"kind": 1.0}) for pair in cyclic_pairs(2, 0)]
    text = cycle_model().text
    batch = PairLoader(pairs, text, 3, attributes=["kind"]).batch(0)
    assert batch.attributes.tolist() == [[1.0]] * 3
    with pytest.raises(ConfigError, match=r"axis_attributes: pair 1 has no attribute 'tone'; it"):
        PairLoader(pairs, text, 3, attributes=["kind", "tone"])


def trainer(tmp_path, **options):
    return Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **options,
    )


class SaveAfter(Callback):
    """Save a checkpoint after four steps, as a run leaves one that is killed later."""

    def __init__(self, file):
        self.file = file

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        if trainer.global_step == 4:
            trainer.save_checkpoint(self.file)


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    ends = []
    for resumed_from in (None, tmp_path / "half.ckpt"):
        module = PreferenceModule(
            cycle_model(), partial(torch.optim.AdamW, lr=1e-3), num_batches=10
        )
        loader = PairLoader(cyclic_pairs(20, 0), module.model.text, 12, epochs=2)
        saving = [SaveAfter(tmp_path / "half.ckpt")]
        fitting = trainer(tmp_path, enable_checkpointing=False, callbacks=saving)
        fitting.fit(module, loader, ckpt_path=resumed_from, weights_only=True)
        assert fitting.global_step == 10
        ends.append(module.state_dict())
    for name in ends[0]:
        assert torch.equal(ends[0][name], ends[1][name]), name


class RecordRates(Callback):
    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, module, batch, batch_index):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_cosine_with_warmup(tmp_path):
    """20 steps, 10 % warm-up: 0 and ½ of the rate, then cos² from 1 to 0 over the other 18."""
    record = RecordRates()
    module = PreferenceModule(
        cycle_model(), partial(torch.optim.SGD, lr=2.0), num_batches=20, warmup_fraction=0.1
    )
    loader = PairLoader(cyclic_pairs(20, 0), module.model.text, 12, epochs=4)
    trainer(tmp_path, enable_checkpointing=False, callbacks=[record]).fit(module, loader)
    expected = [0.0, 1.0] + [2 * math.cos(math.pi / 2 * step / 18) ** 2 for step in range(18)]
    assert record.rates == pytest.approx(expected)


def test_mixed_precision_keeps_scores_in_float32():
    model = cycle_model()
    module = PreferenceModule(model, partial(torch.optim.AdamW, lr=1e-3), num_batches=10)
    batch = collate_pairs(cyclic_pairs(4, 0), model.text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = module.scores(batch)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, module.scores(batch), rtol=0, atol=0.05)


def cycle_loss(spread, tau=0.1, aside=0.0):
    """Mean loss of a ≻ b ≻ c ≻ a, three vectors of norm 1 with angles ``spread`` (radians) apart.

    With ``aside``, a second axis takes the norm, and this one holds a circle of radius ``spread``.
    """
    turns = torch.tensor([0.0, 1.0, 2.0])
    angles = turns * (2 * math.pi / 3 if aside else spread)
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    if aside:
        vectors = torch.cat([spread * vectors, aside * torch.tensor([[1.0, 0.0]] * 3)], 1)
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    order = torch.tensor([0, 1, 1, 2, 2, 0])
    scores = pair_scores(vectors[order], torch.ones(6, vectors.shape[1] // 2))
    return float(pair_loss(scores, torch.ones(3), torch.zeros(3), tau).mean())


def test_one_normalised_axis_must_climb_before_it_learns_a_cycle():
    """Why k = 1 with L2 ends at ln 2: all answers alike is a local minimum, walled in at τ = 0.1.

    By angles ε, ε, −2ε the scores cancel to first order, while the loss of being unsure of them
    grows as s²/8τ². With a second axis to hold the norm, the circle opens from radius 0 downhill.
    """
    wall = [cycle_loss(spread) for spread in (0.0, 0.1, 0.5, 2 * math.pi / 3)]
    assert wall[0] == pytest.approx(math.log(2), abs=1e-6)
    assert wall[1] > wall[0] + 0.1
    assert wall[2] > wall[1]
    assert wall[3] < 0.01
    downhill = [cycle_loss(radius, aside=1.0) for radius in (0.02, 0.1, 0.5, 1.0)]
    assert math.log(2) > downhill[0] > downhill[1] > downhill[2] > downhill[3]


@pytest.mark.long
def test_a_gpm_learns_cycles_that_hold_for_unseen_prompts_and_responses():
    train, held_out = cyclic_pairs(1600, 0), cyclic_pairs(200, 1)
    known = {c[i]["content"] for p in train for c in (p.chosen, p.rejected) for i in (0, 1)}
    unseen = {c[i]["content"] for p in held_out for c in (p.chosen, p.rejected) for i in (0, 1)}
    assert len(unseen & known) < 0.02 * len(unseen)
    assert fit(cycle_model("gpm", 3, train), train, held_out) >= 0.99


def test_no_scalar_passes_its_ceiling_on_cycles():
    """Each held-out prompt has a ≻ b ≻ c ≻ a: a ranking of the three gets at most 2 of 3 right."""
    train, held_out = cyclic_pairs(400, 0), cyclic_pairs(200, 1)
    accuracy = fit(cycle_model("bradley_terry", 1), train, held_out)
    assert accuracy <= BRADLEY_TERRY_CEILING + 1e-6
