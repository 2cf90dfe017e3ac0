"""A run that replays another's β is given exactly that β, iteration by iteration."""

from __future__ import annotations

import lightning as L
import pytest
import torch

from gprl_lightning.callbacks.invariants import Invariants
from gprl_lightning.callbacks.kl_schedule import KLSchedule, read_schedule
from gprl_lightning.errors import ConfigError
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.loggers import MetricsCSV
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.worlds import tiny_loader, tiny_module, tiny_trainer


class Witness(L.Callback):
    """β with which each iteration's update was made."""

    def __init__(self) -> None:
        self.kl_coefs: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.kl_coefs.append(pl_module.control.kl_coef)


@pytest.fixture(scope="module")
def monitored(tmp_path_factory):
    """Six iterations under a controller with a threshold low enough to act in each."""
    folder = tmp_path_factory.mktemp("monitored")
    witness, module = Witness(), tiny_module(lr=3e-3)
    tiny_trainer(folder, every=100, callbacks=[witness]).fit(module, tiny_loader(module))
    return folder, witness.kl_coefs, module


def _replay(folder, kl_coefs):
    folder.mkdir(exist_ok=True)
    witness, module = Witness(), tiny_module(kind="bradley_terry", num_axes=1, anchored=False)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        log_every_n_steps=1,
        logger=[MetricsCSV(folder)],
        callbacks=[Invariants(folder), KLSchedule(kl_coefs), witness],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, tiny_loader(module))
    return witness.kl_coefs, module


def test_the_replayed_run_has_the_other_s_beta_in_every_iteration(monitored, tmp_path):
    folder, expected, module = monitored
    assert len(expected) == 6 and len(set(expected)) > 2, "the controller must have acted"
    schedule = read_schedule(folder / "metrics.csv", 6, module.algorithm.kl_coef)
    found, _ = _replay(tmp_path, schedule)
    assert found == pytest.approx(expected, rel=1e-6)  # the log is in float32
    # Its own log is the other's: a replay can be replayed.
    logs = [read_metrics(f / "metrics.csv")[metrics.DRIFT_KL_COEF][1] for f in (tmp_path, folder)]
    assert logs[0][:-1] == pytest.approx(logs[1][:-1], rel=1e-6)


def test_beta_reaches_the_update(tmp_path):
    """From the second iteration on, where policy and reference differ, another β trains another
    policy."""
    _, weak = _replay(tmp_path / "a", [0.02] * 6)
    _, strong = _replay(tmp_path / "b", [0.02, *[5.0] * 5])
    pairs = zip(weak.policy.parameters(), strong.policy.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "iterations,message",
    [(9, "found none for iteration 7"), (7, None)],
)
def test_a_run_that_is_too_short_is_refused(monitored, iterations, message):
    file = monitored[0] / "metrics.csv"
    if message is None:
        assert len(read_schedule(file, iterations, 0.02)) == iterations
        return
    with pytest.raises(ConfigError, match=message):
        read_schedule(file, iterations, 0.02)


def test_no_run_and_no_monitor(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        read_schedule(tmp_path / "metrics.csv", 3, 0.02)
    MetricsCSV(tmp_path).log_metrics({metrics.KL: 0.1}, step=1)
    with pytest.raises(ConfigError, match="found none for iteration 1"):
        read_schedule(tmp_path / "metrics.csv", 3, 0.02)
