"""A run that stopped and was resumed ends where the run that never stopped ends, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gprl_lightning.core.drift import replay
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.worlds import SENSITIVE, tiny_loader, tiny_module, tiny_trainer

OPTIONS = {"inner_epochs": 2, "minibatches": 2, "micro_batch_size": 3}


def _run(folder, ckpt_path=None, settings=SENSITIVE):
    folder.mkdir(exist_ok=True)
    module = tiny_module(**OPTIONS)
    trainer = tiny_trainer(folder, settings=settings)
    if ckpt_path is not None:
        trainer.loggers[0].continue_from(int(ckpt_path.stem.split("_")[1]))
    trainer.fit(module, tiny_loader(module), ckpt_path=ckpt_path, weights_only=True)
    return module, trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return *_run(folder), folder


@pytest.mark.parametrize("iteration", [1, 2, 3, 5])
def test_resume_is_bit_equal(whole, tmp_path, iteration):
    module, trainer, folder = whole
    ckpt = folder / "checkpoints" / f"iteration_{iteration:06d}.ckpt"
    again, resumed = _run(tmp_path, ckpt)
    for (name, a), b in zip(module.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert trainer.callbacks[1].state == resumed.callbacks[1].state
    assert trainer.callbacks[1].interventions == resumed.callbacks[1].interventions
    one, two = (t.optimizers[0].state_dict()["state"] for t in (trainer, resumed))
    assert all(torch.equal(one[i]["exp_avg"], two[i]["exp_avg"]) for i in one)
    assert module.lr_schedulers().state_dict() == again.lr_schedulers().state_dict()


def test_metrics_of_the_resumed_part_are_the_same(whole, tmp_path):
    folder = whole[2]
    _run(tmp_path, folder / "checkpoints" / "iteration_000003.ckpt")
    first, second = (read_metrics(f / "metrics.csv") for f in (folder, tmp_path))
    for name in set(first) - {n for n in first if n.startswith("time/") or "second" in n}:
        steps, values = first[name]
        later = [v for s, v in zip(steps, values, strict=True) if s > 3]
        assert second[name][1] == later, name


def test_a_resume_into_the_same_folder_keeps_one_row_per_iteration(whole):
    folder = whole[2]
    before = (folder / "metrics.csv").read_text().count("\n")
    _run(folder, folder / "checkpoints" / "iteration_000002.ckpt")
    iterations = read_metrics(folder / "metrics.csv")["train/loss"][0]
    assert iterations == [1, 2, 3, 4, 5, 6]
    assert (folder / "metrics.csv").read_text().count("\n") == before


def test_the_interventions_did_intervene(whole):
    """Without this the drift state that a resume restores could be trivial."""
    assert whole[1].callbacks[1].interventions


def test_the_surprise_acts_in_training_and_resumes_bit_equal(whole, tmp_path):
    """Its record is one of the policy's own -log π_ref; the multipliers move by it, too."""
    settings = replace(SENSITIVE, statistic="surprise", ema=0.0)
    module, trainer = _run(tmp_path / "whole", settings=settings)
    monitor = trainer.callbacks[1]
    ckpt = tmp_path / "whole/checkpoints/iteration_000004.ckpt"
    again, resumed = _run(tmp_path / "again", ckpt, settings)
    for (name, a), b in zip(module.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert monitor.state == resumed.callbacks[1].state
    assert monitor.interventions == resumed.callbacks[1].interventions != []
    levels = read_metrics(tmp_path / "whole/metrics.csv")["drift/surprise"][1]
    assert all(level > 0 for level in levels)
    assert monitor.state.calibration_surprise == pytest.approx(levels[:2])
    assert monitor.interventions != whole[1].callbacks[1].interventions
    controls = replay(monitor.interventions, monitor.settings, 3)
    assert controls[-1].kl_coef == module.control.kl_coef
