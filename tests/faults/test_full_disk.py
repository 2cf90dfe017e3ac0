"""A disk without room for a log only warns; a training that is ended early is no success."""

from __future__ import annotations

import math

import pytest
from lightning import Callback

from gprl_lightning.callbacks.rollout_table import RolloutTable
from gprl_lightning.runtime.checkpoint_files import checkpoints, iteration_of
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.composing import ROOT
from tests.tiny_run import clean_environment, tiny_settings, train
from tests.worlds import tiny_loader, tiny_module, tiny_trainer

FULL = "/dev/full"  # a file that is always on a full disk


def full(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(FULL)


class BreaksJudge(Callback):
    """NaN from the judge in the second iteration."""

    def setup(self, trainer, pl_module, stage):
        judge = pl_module.preference_model.module
        self.embed, self.calls = judge.embed, 0
        judge.embed = self

    def __call__(self, *texts):
        found = self.embed(*texts)
        self.calls += 1
        if self.calls == 2:
            found.vectors[0, 0] = math.nan
        return found


@pytest.mark.parametrize(
    ("name", "warns"),
    [
        ("rollouts/iteration_000002.csv", "this rollout is not logged"),
        ("bad_steps/iteration_000002_rank0.pt", "the batch cannot be replayed"),
        ("drift_interventions.csv", "they are in the checkpoint"),
    ],
)
def test_a_log_that_finds_no_room_is_warned_of_and_the_run_goes_on(tmp_path, name, warns):
    full(tmp_path, name.replace(".csv", ".partial") if "rollouts" in name else name)
    module = tiny_module(4, anchored=False)
    watching = [RolloutTable(tmp_path, 1), BreaksJudge()]
    trainer = tiny_trainer(tmp_path, callbacks=watching)
    with pytest.warns(UserWarning, match=rf"{name} could not be written .*No space.*{warns}"):
        trainer.fit(module, tiny_loader(module, 4))
    assert [iteration_of(f) for f in checkpoints(tmp_path / "checkpoints")] == [1, 2, 3, 4]
    assert read_metrics(tmp_path / "metrics.csv")["train/bad_steps"][1] == [0, 1, 1, 1]


class StopsAfterTheFirst(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = batch.iteration == 0


def test_a_training_that_is_ended_early_is_saved_exits_with_3_and_goes_on(tmp_path):
    settings = {**tiny_settings(tmp_path), "logger": "none", "checkpoint_every": 100}
    target = "+callbacks.stops._target_=tests.faults.test_full_disk.StopsAfterTheFirst"
    command = [f"{k}={v}" for k, v in settings.items()]
    command += [target, f"hydra.run.dir={tmp_path / 'run'}"]
    environment = clean_environment(PYTHONPATH=str(ROOT))
    done = train(*command, environment=environment)
    assert done.returncode == 3, done.stderr[-3000:]
    assert "EndedEarly: iterations=2: expected as many; found the training ended after 1" in (
        done.stderr
    )
    assert not (tmp_path / "run" / "summary.json").exists()
    again = train(*command, environment=environment)
    assert again.returncode == 0, again.stderr[-3000:]
    assert read_metrics(tmp_path / "run" / "metrics.csv")["train/loss"][0] == [1, 2]
    assert (tmp_path / "run" / "summary.json").exists()
