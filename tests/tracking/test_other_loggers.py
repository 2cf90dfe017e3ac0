"""TensorBoard and MLflow, the real packages: counted in iterations, and never in a run's way."""

from __future__ import annotations

import builtins
import math

import pytest
from hydra.utils import instantiate

from gprl_lightning.errors import ConfigError
from gprl_lightning.tracking.metrics import ITERATION
from gprl_lightning.tracking.other_loggers import GPRLMLFlowLogger, GPRLTensorBoardLogger
from tests.composing import composed


def log_two_iterations(logger) -> None:
    logger.log_hyperparams({"algorithm": {"kl_coef": 0.1}, "callbacks": {}, "tags": ["a", "b"]})
    # Lightning's step counts optimiser steps: four in an iteration here.
    logger.log_metrics({"train/loss": 1.0, "epoch": 0, ITERATION: 1}, step=4)
    logger.log_metrics({"train/loss": math.nan, "epoch": 0, ITERATION: 2}, step=8)
    logger.log_metrics({"eval/win_rate": 0.5}, step=0)
    logger.finalize("success")


def test_tensorboard_has_every_metric_at_its_iteration(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_two_iterations(GPRLTensorBoardLogger(tmp_path))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "eval/win_rate"}
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert (tmp_path / "tensorboard" / "hparams.yaml").exists()


def test_mlflow_has_every_metric_at_its_iteration(tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/not yet/mlflow.db"
    log_two_iterations(GPRLMLFlowLogger(uri, "grid_axes", "seed=0", {"by": "me"}))
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'grid_axes'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["algorithm/kl_coef"] == "0.1"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2]
    assert run.info.status == "FINISHED" and run.data.tags["by"] == "me"
    assert run.info.run_name == "seed=0"


def test_a_logger_that_fails_is_told_once_and_left_alone(tmp_path, recwarn):
    logger = GPRLTensorBoardLogger(tmp_path)
    calls = []

    def broken(*_: object) -> None:
        calls.append(1)
        raise OSError("no space")

    logger.experiment.add_scalar = broken
    for iteration in range(1, 4):
        logger.log_metrics({"train/loss": 1.0, ITERATION: iteration}, step=iteration)
    logger.finalize("success")
    told = [w for w in recwarn if "goes on without it" in str(w.message)]
    assert len(calls) == 1 and len(told) == 1


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    found = builtins.__import__

    def without(name, *arguments, **options):
        if name.partition(".")[0] == "mlflow":
            raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
        return found(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"gprl-lightning\[mlflow\]"):
        GPRLMLFlowLogger(f"sqlite:///{tmp_path}/mlflow.db", "a", "b")


def test_several_loggers_are_one_word(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow leaves the last one there
    cfg = composed("logger=[csv,tensorboard,mlflow]", f"paths.output={tmp_path}")
    assert set(cfg.logger) == {"tensorboard", "mlflow"}
    assert cfg.logger.mlflow.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    kinds = {type(instantiate(options)) for options in cfg.logger.values()}
    assert kinds == {GPRLTensorBoardLogger, GPRLMLFlowLogger}
    assert set(composed("logger=tensorboard").logger) == {"tensorboard"}
