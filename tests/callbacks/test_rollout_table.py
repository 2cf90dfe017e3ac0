"""The table of responses holds what the iteration really did, and enough to compute it again."""

from __future__ import annotations

from itertools import product

import lightning as L
import pytest
import torch

from gprl_lightning.callbacks.rollout_table import RolloutTable, media
from gprl_lightning.core.gprl_advantages import GPRLAdvantages
from gprl_lightning.tracking.answer_log import prompt_text
from gprl_lightning.tracking.rollout_log import (
    RULE,
    LoggedRollout,
    logged_iterations,
    read_rows,
    rollout_file,
    write_rows,
)
from gprl_lightning.tracking.rule_record import rule_of
from tests import oracle
from tests.worlds import SIZE, tiny_loader, tiny_module, tiny_trainer


class Witness(L.Callback):
    """Keeps what each iteration scored, and the multipliers that it was made with."""

    def __init__(self) -> None:
        self.scored, self.multipliers = {}, {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.multipliers[batch.iteration + 1] = pl_module.control.axis_multipliers.tolist()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.scored[batch.iteration + 1] = outputs["iteration"].group.scored


def _run(folder, every=2, iterations=5, **options):
    module, witness = tiny_module(iterations=iterations, **options), Witness()
    trainer = tiny_trainer(
        folder,
        every=100,
        num_axes=len(module.preference_source.axes),
        callbacks=[witness, RolloutTable(folder, every)],
    )
    trainer.fit(module, tiny_loader(module, iterations))
    return witness


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, _run(folder)


def test_the_first_every_nth_and_the_last_iteration_are_logged(run):
    assert logged_iterations(run[0]) == [1, 2, 4, 5]


@pytest.mark.parametrize("iteration", [1, 4])
def test_rows_are_what_the_iteration_scored(run, iteration):
    folder, witness = run
    rows, scored = read_rows(rollout_file(folder, iteration)), witness.scored[iteration]
    rollout = scored.rollout
    assert [row["response"] for row in rows] == list(rollout.responses)
    assert [row["group"] for row in rows] == [0] * SIZE + [1] * SIZE + [2] * SIZE
    assert [row["uid"] for row in rows[::SIZE]] == rollout.prompts.uids.tolist()
    texts = [messages[0]["content"] for messages in rollout.prompts.messages]
    assert [row["prompt"] for row in rows[::SIZE]] == texts
    assert [row["length"] for row in rows] == rollout.response_mask.sum(1).tolist()
    ended = [row["stop_reason"] == "end" for row in rows]
    assert ended == rollout.finished.tolist()
    assert [row["advantage"] for row in rows] == scored.advantages.flatten().tolist()
    for axis in range(3):
        for name, values in (
            ("group_score", scored.group_scores),
            ("axis_advantage", scored.axis_advantages),
        ):
            assert [row[f"{name}/{axis}"] for row in rows] == values[..., axis].flatten().tolist()
        eigenvalues = scored.eigenvalues[:, axis].repeat_interleave(SIZE).tolist()
        assert [row[f"eigenvalue/{axis}"] for row in rows] == eigenvalues
    assert {row["iteration"] for row in rows} == {iteration}


def test_multipliers_are_those_that_the_advantages_were_made_with(run):
    """And not those of the next iteration, which the drift monitor has set by then."""
    folder, witness = run
    assert witness.multipliers[4] != witness.multipliers[5], "the controller must have acted"
    rows = read_rows(rollout_file(folder, 4))
    assert [rows[0][f"axis_multiplier/{a}"] for a in range(3)] == witness.multipliers[4]


def test_advantages_follow_from_the_file_by_the_oracle_s_arithmetic(run):
    folder, _ = run
    for iteration in logged_iterations(folder):
        rows = read_rows(rollout_file(folder, iteration))
        for group in range(3):
            of_group = [row for row in rows if row["group"] == group]
            vectors = [[row[f"vector/{i // 2}/{i % 2}"] for i in range(6)] for row in of_group]
            scores = oracle.group_scores(vectors)
            total = torch.zeros(SIZE).double()
            for axis in range(3):
                column = torch.tensor([row[axis] for row in scores]).double()
                z = (column - column.mean()) / (column.std(unbiased=False) + 1e-4)
                weight = of_group[0][f"eigenvalue/{axis}"] * of_group[0][f"axis_multiplier/{axis}"]
                total += weight * z
            logged = torch.tensor([row["advantage"] for row in of_group]).double()
            assert torch.allclose(logged, total, atol=1e-4)


ARMS = [
    {"normalization": n, "weighting": w, "advantage_scale": s}
    for n, w, s in product(
        ("per_axis", "global", "none", "per_axis_whitened"),
        ("eigenvalue", "uniform", "unit"),
        ("paper", "matched"),
    )
]
ARMS += [{"score_shape": "bounded"}, {"axis_std_floor": 1.5}]


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: "-".join(map(str, arm.values())))
def test_every_arm_is_rederived_to_1e_6(tmp_path, arm):
    witness = _run(tmp_path, iterations=2, min_axis_std=0.3, **arm)
    logged = LoggedRollout.read(tmp_path, 2)
    rule = rule_of(logged.rows[0][RULE])
    assert vars(rule).items() >= arm.items()
    assert (logged.rederived(rule) - witness.scored[2].advantages).abs().max() <= 1e-6
    assert logged.advantages.abs().max() > 1e-3


def test_rederiving_needs_each_part_that_is_stored(run):
    """A changed vector, eigenvalue or multiplier is found."""
    rows = read_rows(rollout_file(run[0], 4))
    for column in ("vector/1/0", "eigenvalue/1", "axis_multiplier/0"):
        changed = [{**row, column: row[column] + 0.01 * i} for i, row in enumerate(rows, 1)]
        logged = LoggedRollout.from_rows(changed)
        assert (logged.rederived(GPRLAdvantages()) - logged.advantages).abs().max() > 1e-4, column


def test_bradley_terry_has_one_axis_and_its_own_win_probability(tmp_path):
    witness = _run(tmp_path, iterations=1, kind="bradley_terry", num_axes=1)
    logged = LoggedRollout.read(tmp_path, 1)
    rewards = witness.scored[1].vectors[..., 0, 0]
    expected = torch.sigmoid(rewards[:, :, None] - rewards[:, None, :])
    assert torch.allclose(logged.win_probabilities(), expected, atol=1e-6)


def test_win_probabilities_are_the_oracle_s(run):
    logged = LoggedRollout.read(run[0], 4)
    found = logged.win_probabilities()[1]
    groups = logged.groups
    vectors, eigenvalues = groups.vectors[1].flatten(-2).tolist(), groups.eigenvalues[1].tolist()
    for i, j in product(range(SIZE), repeat=2):
        score = sum(
            weight
            * (
                vectors[i][2 * a] * vectors[j][2 * a + 1]
                - vectors[i][2 * a + 1] * vectors[j][2 * a]
            )
            for a, weight in enumerate(eigenvalues)
        )
        assert float(found[i, j]) == pytest.approx(
            1 / (1 + pow(2.718281828459045, -score / 0.1)), abs=1e-5
        )


def test_media_for_wandb(run):
    rows = read_rows(rollout_file(run[0], 4))
    made = media(rows)
    table = made["rollout/responses"]
    assert len(table.data) == 3 * SIZE
    wanted = {"prompt", "response", "stop_reason", "length", "advantage"}
    per_axis = {
        f"{n}/{a}" for n in ("group_score", "axis_advantage", "eigenvalue") for a in range(3)
    }
    assert set(table.columns) == {"group"} | wanted | per_axis
    first = dict(zip(table.columns, table.data[5], strict=True))
    assert first == {name: rows[5][name] for name in first}
    image = made["rollout/win_probability"].image
    assert image.width > 100 and len(image.getcolors(maxcolors=100_000)) > 20
    histogram = made["axis/group_score/2"]
    assert sum(histogram.histogram) == 3 * SIZE
    assert histogram.bins[0] == min(row["group_score/2"] for row in rows)
    assert made["axis/advantage/0"].bins[-1] == max(row["axis_advantage/0"] for row in rows)


@pytest.mark.parametrize(
    "text", ['two\nlines, and "quotes"', "carriage\r\nreturn", "", "üñí 中 🦜"]
)
def test_texts_come_back_as_they_were(tmp_path, text):
    rows = [{"group": 0, "response": text, "advantage": 0.1 + 0.2}]
    write_rows(tmp_path / "a.csv", rows)
    assert read_rows(tmp_path / "a.csv") == rows


def test_a_prompt_of_several_messages_shows_its_roles():
    messages = (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
    )
    assert prompt_text(messages) == "system: be brief\nuser: hello"
    assert prompt_text(messages[1:]) == "hello"
