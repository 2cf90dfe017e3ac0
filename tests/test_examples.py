"""Each example trains, by its own file and its line of configuration alone."""

from __future__ import annotations

import csv
from pathlib import Path

import lightning as L
import pytest
import torch

from examples.by_hand import main
from gprl_lightning.cli.inspect import main as inspect
from gprl_lightning.errors import ConfigError
from tests.composing import ROOT
from tests.tiny_run import clean_environment, tiny_settings, train
from tests.worlds import tiny_loader, tiny_module

CONF = ["--config-dir", "examples/conf"]
REWARDS = "examples.python_rewards"
FUNCTIONS = [
    "preference_model=functions",
    f"preference_model.functions=[{REWARDS}.brevity,{REWARDS}.variety]",
]


def run(folder: Path, *words: str) -> Path:
    settings = tiny_settings(folder) | {"logger": "none", "hydra.run.dir": str(folder / "run")}
    if FUNCTIONS[0] in words:
        del settings["preference_model.path"]
    overrides = [f"{key}={value}" for key, value in settings.items()]
    done = train(*words, *overrides, environment=clean_environment())
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "run"


def test_a_python_reward(tmp_path, capsys):
    folder = run(tmp_path, *FUNCTIONS)
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[1]["axis/score_std/variety"]) > 0
    assert {"axis/score_std/brevity", "axis/eigenvalue/brevity"} <= rows[0].keys()
    assert inspect([str(folder)]) == 0
    assert "brevity" in capsys.readouterr().out


def test_a_rank_based_advantage(tmp_path, capsys):
    folder = run(tmp_path, *CONF, "algorithm/advantage=rank")
    assert inspect([str(folder)]) == 2, "a run's file does not say what code is run"
    rule = "examples.rank_advantage.rank_advantages"
    assert f"--rule {rule}" in capsys.readouterr().err
    assert inspect([str(folder), "--rule", rule]) == 0
    assert "0.0e+00 in the iteration: agree" in " ".join(capsys.readouterr().out.split())
    other = "gprl_lightning.core.gprl_advantages.GPRLAdvantages"
    assert inspect([str(folder), "--rule", other]) == 1


def test_a_loss(tmp_path):
    folder = run(tmp_path, *CONF, "algorithm/policy_loss=unclipped")
    config = (folder / "config.yaml").read_text()
    assert "examples.unclipped_loss.Unclipped" in config


def test_a_sampler(tmp_path):
    folder = run(tmp_path, *CONF, "rollout=longest_of_two")
    assert "LongestOfTwo" in (folder / "config.yaml").read_text()
    assert inspect([str(folder)]) == 0


def test_a_judge(tmp_path):
    target = "+evaluation.judges.shorter._target_=examples.shorter_is_better.ShorterIsBetter"
    folder = run(tmp_path, target)
    with (folder / "metrics.csv").open() as stream:
        first = next(csv.DictReader(stream))
    assert float(first["eval/shorter/words"]) >= 0
    assert {"eval/win_rate/shorter", "eval/no_verdict/shorter"} <= first.keys()


def test_an_objective(tmp_path):
    folder = run(tmp_path, *CONF, "objective=imitate_the_best", "drift=disabled")
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[-1]["train/loss"]) != float(rows[-2]["train/loss"])
    assert (folder / "checkpoints" / "iteration_000002.ckpt").exists()
    assert not (folder / "rollouts").exists(), "nothing was scored by a rule"


def test_a_monitor_is_refused_where_there_are_no_axes(tmp_path):
    settings = tiny_settings(tmp_path) | {"logger": "none"}
    words = [f"{key}={value}" for key, value in settings.items()]
    done = train(*CONF, "objective=imitate_the_best", *words, environment=clean_environment())
    assert done.returncode == 2
    assert "Set drift=disabled" in done.stderr


def test_a_run_by_hand_does_not_replay_its_iterations():
    module = tiny_module(2)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False, barebones=True
    )
    with pytest.raises(ConfigError, match=r"max_epochs=3: expected 1"):
        trainer.fit(module, tiny_loader(module, 2))


def test_a_run_by_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = main(iterations=2)
    assert module.preference_source.axes == ("brevity", "variety")
    assert not all(
        torch.equal(a, b)
        for a, b in zip(
            module.policy.parameters(), module.reference.module.parameters(), strict=True
        )
    )


@pytest.mark.parametrize(
    "name",
    [
        "python_rewards",
        "rank_advantage",
        "unclipped_loss",
        "longest_of_two",
        "shorter_is_better",
        "imitate_the_best",
    ],
)
def test_nothing_else_knows_of_it(name):
    """Neither the package nor its configuration."""
    files = [*(ROOT / "gprl_lightning").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml")]
    assert not [file for file in files if name in file.read_text()]
