"""Planted mistakes: each stops ``train.py`` before the first rollout, with one message and a code.

Every message names the key, what was expected, what was found, and a fix: the table is
``fixtures/refusals.yaml``. All take the command line's own path, in this process; two run as
programs, too.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra

from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.pretrained_preference import save_preference_model
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.runtime.checkpoint_io import read_header
from tests.composing import ROOT
from tests.tiny import tiny_model, tiny_tokenizer
from tests.tiny_run import clean_environment, tiny_settings, train

QUIET = (
    "hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null", "logger=none",
)  # fmt: skip


class Mistake(NamedTuple):
    """Overrides, and what the message says."""

    overrides: str
    key: str
    expected: str
    found: str
    fix: str
    code: int = 2


ROWS = yaml.safe_load((ROOT / "tests/fixtures/refusals.yaml").read_text())
EVERY = [Mistake(*row) for row in ROWS]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    """Folders and files with one thing wrong each, and a run that can be resumed."""
    folder = tmp_path_factory.mktemp("refusals")
    settings = {**tiny_settings(folder), "checkpoint_every": 1, "callbacks.rollout_table.every": 99}
    (folder / "empty").mkdir()

    def prompts(name: str, *rows: str) -> None:
        (folder / f"{name}.jsonl").write_text("".join(row + "\n" for row in rows))

    good = [json.dumps({"prompt": f"say {i}"}) for i in range(8)]
    prompts("keyless", *[json.dumps({"question": "why?"})] * 8)
    prompts("blank", good[0], json.dumps({"prompt": ""}), *good)
    prompts("broken", good[0], '{"prompt": ', *good)
    prompts("long", good[0], json.dumps({"prompt": "x" * 490}), *good)
    settings_of = {"policy": folder / "policy", "judge": folder / "judge"}

    def changed(name: str, of: str, **files: dict) -> None:
        shutil.copytree(settings_of[of], folder / name)
        for file, content in files.items():
            path = folder / name / f"{file}.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **content}))

    changed("no_template", "policy")
    (folder / "no_template" / "chat_template.jinja").unlink()
    changed("no_end", "policy", generation_config={"eos_token_id": 1})
    changed("small_vocabulary", "policy")
    tiny_model(vocab=50).save_pretrained(folder / "small_vocabulary")
    changed("other_policy", "policy")
    tiny_model(seed=1).save_pretrained(folder / "other_policy")
    small = from_backbone(tiny_model(vocab=50).model, tiny_tokenizer(), num_axes=3)
    save_preference_model(small, folder / "small_judge")

    overrides = [f"{k}={v}" for k, v in settings.items()]
    done = train(
        *overrides,
        "logger=none",
        f"hydra.run.dir={folder / 'run'}",
        environment=clean_environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.copytree(folder / "run" / "checkpoints", folder / "cut")
    truncated = folder / "cut" / "iteration_000002.ckpt"
    os.truncate(truncated, 10_000)
    shutil.copytree(folder / "run" / "checkpoints", folder / "named")
    misnamed = folder / "named" / "iteration_000001.ckpt"
    (folder / "named" / "iteration_000002.ckpt").replace(misnamed)
    (folder / "taken").mkdir()
    (folder / "taken" / "policy").write_text("mine")
    shutil.copytree(folder / "run", folder / "nan_run")
    with_nan(folder / "nan_run" / "checkpoints" / "iteration_000002.ckpt")
    places = {path.stem: path for path in folder.iterdir()}
    return {**places, "truncated": truncated, "misnamed": misnamed, "settings": settings}  # type: ignore[dict-item]


def with_nan(file: Path) -> None:
    """Put a NaN into a checkpoint's weights, all else as it was."""
    checkpoint, header = torch.load(file, weights_only=True), read_header(file)
    next(iter(checkpoint["state_dict"].values())).view(-1)[0] = float("nan")
    with file.open("wb") as stream:
        torch.save(checkpoint, stream)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/run.json", json.dumps(header))


def command_line(overrides: list[str], capsys) -> tuple[int, str]:
    """What ``python train.py`` exits with and writes, in this process."""
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    return int(stopped.value.code or 0), capsys.readouterr().err


def results_in(run: Path) -> dict[str, bytes]:
    """What a run left, but for Hydra's notes on the latest call."""
    files = [f for f in run.rglob("*") if f.is_file() and ".hydra" not in f.parts]
    return {str(f): f.read_bytes() for f in files if f.suffix not in (".log", ".ckpt")}


@pytest.mark.parametrize("mistake", EVERY, ids=lambda m: m.overrides)
def test_each_mistake_is_refused(mistake, world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr(NativeSampler, "sample", lambda *_: pytest.fail("there was a rollout"))
    given = [part.format(**world) for part in mistake.overrides.split(" ")]
    if not any(part.startswith("hydra.run.dir") for part in given):
        given.append(f"hydra.run.dir={tmp_path}")
    names = {part.lstrip("+").partition("=")[0] for part in given}
    settings = [f"{k}={v}" for k, v in world["settings"].items() if k not in names]
    quiet = [q for q in QUIET if not (q == "logger=none" and "logger" in names)]
    monkeypatch.setattr(sys, "argv", ["train.py", *settings, *quiet, *given])

    kept = {name: results_in(world[name]) for name in ("run", "nan_run")}
    code, message = command_line(given, capsys)
    for name, before in kept.items():
        assert results_in(world[name]) == before, "a refusal has changed a finished run"
    message = message[message.rfind("overrides: [") :].partition("\n")[2] or message
    assert code == mistake.code, message
    assert "Traceback" not in message
    assert len(message) < 1500
    for part in ("key", "expected", "found", "fix"):
        assert getattr(mistake, part) in message, f"{part}: {message}"


def test_there_are_at_least_thirty_mistakes():
    assert len(EVERY) >= 30
    assert len({m.overrides for m in EVERY}) == len(EVERY)


@pytest.mark.parametrize(("number", "code"), [(0, 2), (-1, 3)])
def test_as_a_program_too(world, number, code):
    """One that is seen before anything loads, and one that takes the files."""
    mistake = EVERY[number]
    overrides = [f"{k}={v}" for k, v in world["settings"].items()]
    given = mistake.overrides.format(**world).split(" ")
    refused = train(*overrides, "logger=none", *given, environment=clean_environment())
    assert refused.returncode == code
    assert mistake.key in refused.stderr and mistake.fix in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_whole_story_on_request(world):
    overrides = [f"{k}={v}" for k, v in world["settings"].items()]
    environment = clean_environment(HYDRA_FULL_ERROR="1")
    shown = train(*overrides, "rollout.group_size=1", environment=environment)
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr and "rollout.group_size=1: expected >= 2" in shown.stderr
