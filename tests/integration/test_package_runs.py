"""Short runs by the command line: debug, fast_dev_run, loggers, and what LoRA leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gprl_lightning.tracking.metrics_file import read_metrics
from tests.tiny_run import clean_environment, tiny_settings, train


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("tiny")
    return [f"{key}={value}" for key, value in tiny_settings(folder).items()]


def run(settings: list[str], folder: Path, *overrides: str) -> str:
    """What a run in `folder` prints, into pipes."""
    done = train(*settings, f"hydra.run.dir={folder}", *overrides, environment=clean_environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_the_policy_of_a_lora_run_is_a_plain_folder_and_its_adapter_lies_beside(settings, tmp_path):
    from peft import PeftModel

    folder = tmp_path / "run"
    options = ("lora=adapters", "optimizer.lr=1e-2", "logger=[csv,tensorboard]")
    run(settings, folder, *options)
    assert not (folder / "policy" / "adapter_config.json").exists()
    plain = AutoModelForCausalLM.from_pretrained(folder / "policy").eval()
    assert "Peft" not in type(plain).__name__
    base = next(s.removeprefix("policy.path=") for s in settings if s.startswith("policy.path="))
    start = AutoModelForCausalLM.from_pretrained(base).eval()
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        before, found = start(ids).logits, plain(ids).logits
        adapted = PeftModel.from_pretrained(start, str(folder / "adapter")).eval()(ids).logits
    assert AutoTokenizer.from_pretrained(folder / "policy").chat_template
    torch.testing.assert_close(found, adapted, atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 1e-4  # it has learned something
    assert list((folder / "tensorboard").glob("events.*"))


def test_overfit_takes_one_iterations_prompts_and_a_pipe_gets_lines(settings, tmp_path):
    told = run(settings, tmp_path / "run", "debug=overfit", "iterations=3")
    prompts = []
    for file in sorted((tmp_path / "run" / "rollouts").glob("*.csv")):
        with file.open(encoding="utf8") as rows:
            prompts.append({row["prompt"] for row in csv.DictReader(rows)})
    assert len(prompts) == 3 and len(prompts[0]) == 2 and prompts.count(prompts[0]) == 3
    assert not (tmp_path / "run" / "wandb").exists()
    assert "\r" not in told and "LOAD REPORT" not in told and "INFO" not in told
    assert told.count("training: ") == 2 and len(told.encode()) < 8000


def test_fast_dev_run_is_a_whole_run_of_one_iteration(settings, tmp_path):
    run(settings, tmp_path / "run", "+trainer.fast_dev_run=true")
    assert read_metrics(tmp_path / "run" / "metrics.csv")["train/loss"][0] == [1]
    assert (tmp_path / "run" / "policy" / "config.json").exists()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["final"]
    assert not (tmp_path / "run" / "wandb").exists()
