"""Runs on pairs under the real trainer: invariants hold, and a resume ends bit for bit the same."""

from __future__ import annotations

import lightning as L
import pytest
import torch

from gprl_lightning.callbacks.invariants import Invariants
from gprl_lightning.callbacks.iteration_checkpoint import IterationCheckpoint
from gprl_lightning.callbacks.rollout_table import RolloutTable
from gprl_lightning.cli import inspect
from gprl_lightning.config import AlgorithmConfig, Config, DataConfig
from gprl_lightning.core.pair_losses import DPO, SimPO
from gprl_lightning.core.square_loss import SquareLoss
from gprl_lightning.modules.pair_objective import PairObjective
from gprl_lightning.tracking.loggers import MetricsCSV
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.rollout_log import logged_iterations
from tests.pair_worlds import tiny_parts

METHODS = {
    "dpo": (DPO(), {}),
    "online_dpo": (DPO(), {"player": "policy"}),
    "simpo_file": (SimPO(), {"pairs": "file"}),
    "sppo": (SquareLoss(), {"round_length": 2}),
    "sppo_each": (SquareLoss(), {"round_length": 1, "gain": "score"}),
}

ITERATIONS = 8  # more than Invariants lets a reference go along with the policy


def run(folder, method, ckpt_path=None):
    folder.mkdir(exist_ok=True)
    algorithm = AlgorithmConfig(inner_epochs=2, minibatches=3, micro_batch_size=3)
    data = DataConfig(prompts_per_step=3)
    loss, options = METHODS[method]
    parts = tiny_parts(Config(algorithm=algorithm, data=data, iterations=ITERATIONS))
    module = PairObjective(parts, loss, **options)
    csv = MetricsCSV(folder)
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, log_every_n_steps=1, logger=[csv],
        callbacks=[
            Invariants(folder), RolloutTable(folder, every=4),
            IterationCheckpoint(folder / "checkpoints", 1, 100),
        ],
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        default_root_dir=folder,
    )  # fmt: skip
    if ckpt_path is not None:
        csv.continue_from(int(ckpt_path.stem.split("_")[1]))
    trainer.fit(module, module.loader(0, 1), ckpt_path=ckpt_path, weights_only=False)
    return module


@pytest.mark.parametrize("method", METHODS)
def test_a_resume_is_bit_equal(method, tmp_path):
    """From the third of eight iterations, which is in the middle of a round of two."""
    module = run(tmp_path / "whole", method)
    ckpt = tmp_path / "whole" / "checkpoints" / "iteration_000003.ckpt"
    again = run(tmp_path / "again", method, ckpt)
    for (name, a), b in zip(module.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    if module.reference is not None:
        pairs = zip(module.reference.parameters(), again.reference.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    first, second = (read_metrics(tmp_path / f / "metrics.csv") for f in ("whole", "again"))
    assert len(second["train/loss"][1]) == ITERATIONS - 3
    for name in ("train/loss", "train/pair_margin", "train/grad_norm"):
        assert second[name][1] == first[name][1][3:]


def test_the_log_says_what_was_learned(tmp_path):
    run(tmp_path, "simpo_file")
    columns = {name: values for name, (_, values) in read_metrics(tmp_path / "metrics.csv").items()}
    assert len(columns["train/loss"]) == ITERATIONS and "train/pair_log_ratio" not in columns
    assert columns["train/pair_margin"][-1] > columns["train/pair_margin"][0]
    assert columns["train/pair_accuracy"][-1] == 1.0


@pytest.mark.parametrize("method", ["online_dpo", "sppo_each"])
def test_groups_are_logged_and_inspected(method, tmp_path, capsys):
    """Scores by axis and lengths in the log; gains that follow from what the table holds."""
    run(tmp_path, method)
    columns = read_metrics(tmp_path / "metrics.csv")
    for name in ("axis/score_std/0", "axis/eigenvalue/2", "rollout/response_length", "time/score"):
        assert len(columns[name][1]) == ITERATIONS
    assert logged_iterations(tmp_path) == [1, 4, 8]
    assert inspect.main([str(tmp_path), "--group", "2"]) == 0
    shown = capsys.readouterr().out
    assert "agree to 1e-06" in shown and "GameGains" in shown


def test_a_files_pairs_leave_no_table(tmp_path):
    """Nothing was sampled, and `inspect` says so."""
    run(tmp_path, "simpo_file")
    assert logged_iterations(tmp_path) == [] and inspect.main([str(tmp_path)]) == 2
