"""The tasks around preference models: train one, and say what one is worth."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from gprl_lightning.config import Config
from gprl_lightning.data.preferences import PreferencePair
from gprl_lightning.evaluation.preference import evaluate_preference_model
from gprl_lightning.evaluation.preference_report import print_evaluation, write_evaluation
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.runtime.ddp import strategy_of
from gprl_lightning.runtime.preparation import prepare
from gprl_lightning.runtime.processes import part
from gprl_lightning.runtime.run_lock import is_first_process
from gprl_lightning.sandbox.preference_data import sandbox_pairs
from gprl_lightning.tasks.build import build_preference_model
from gprl_lightning.tasks.fit_preference_model import (
    fit_preference_model,
    new_preference_model,
    save_trained,
)
from gprl_lightning.tasks.pairs import pairs_of, preference_pairs
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.loggers import MetricsCSV, recorded_by
from gprl_lightning.tracking.report import write_report
from gprl_lightning.tracking.report_page import write_page
from gprl_lightning.tracking.run_folder import begin, write_summary


def train_preference_model(config: Config, cfg: DictConfig, folder: Path) -> float:
    """Train a GPM or a Bradley-Terry model on labelled pairs. Return its held-out accuracy.

    Of several processes the first one writes what comes out.
    """
    prepare(config)
    train, held_out = preference_pairs(config)
    backbone = policy_folder(config.preference_training.backbone, config.paths.cache)
    model = new_preference_model(config, train, backbone)
    loggers = [MetricsCSV(folder), *[instantiate(c) for c in cfg.logger.values()]]
    if is_first_process(os.environ):
        begin(cfg, folder)
    with recorded_by(loggers, cfg):
        strategy = strategy_of(cfg.trainer, folder, config.peer_timeout)
        make_trainer = partial(instantiate, cfg.trainer, strategy=strategy)
        accuracy = fit_preference_model(
            config, model, train, held_out, make_trainer, folder, loggers
        )
    part()  # metrics of an evaluation would otherwise wait for those of processes that have ended
    if is_first_process(os.environ):
        save_trained(config, model, train, accuracy, folder / "preference_model")
        judge_on(config, model.to(default_device()), held_out, folder)
        write_report(folder)
        write_page(folder)
    return accuracy


def judge_on(
    config: Config, model: PreferenceModel, pairs: list[PreferencePair], folder: Path
) -> dict[str, Any]:
    """Evaluate `model` on `pairs`: evaluation.json, plots, summary.json, and a table."""
    found = evaluate_preference_model(model, pairs)
    files = {file.stem: file for file in write_evaluation(found, folder)}
    final = {
        metrics.HELD_OUT_ACCURACY: found["accuracy"],
        metrics.HELD_OUT_CALIBRATION_ERROR: found["calibration"]["error"],
        metrics.HELD_OUT_AXIS_CORRELATION: found["axes"]["mean_correlation"],
        metrics.HELD_OUT_CYCLIC_TRIADS: found["model_cycles"]["share"],
    }
    write_summary(config, folder, final, files)
    print_evaluation(found)
    say_cut(model)
    return found


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def say_cut(model: PreferenceModel) -> None:
    """Print which share of the texts that a model read was cut."""
    text = model.text
    print(
        f"texts cut at preference_model.max_tokens={text.max_tokens}: {text.cut} of {text.read} "
        f"({text.cut / max(text.read, 1):.1%})"
    )


def eval_preference_model(config: Config, cfg: DictConfig, folder: Path) -> float:
    """Report what a preference model says of labelled pairs: JSON, table, plots; return the
    accuracy.

    Of the sandbox's own pairs, the held-out ones; of a file's, all.
    """
    prepare(config)
    model = build_preference_model(config)
    data = config.data
    sandbox = data.path == "sandbox"
    pairs = sandbox_pairs(config)[1] if sandbox else pairs_of(data, data.path, data.split)
    begin(cfg, folder)
    return judge_on(config, model.to(default_device()), pairs, folder)["accuracy"]
