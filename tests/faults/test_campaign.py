"""The campaign: faults of ``cases.yaml``, each through ``train.py`` in this process.

The law: the run works, or it is refused before the first rollout, by one message without a
traceback that names what the table says; no file of the user's changes.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file, save_file

from gprl_lightning.rollout.native import NativeSampler
from tests.composing import ROOT
from tests.tiny_run import tiny_settings

CASES = yaml.safe_load((ROOT / "tests/faults/cases.yaml").read_text(encoding="utf8"))
QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "logger=none", "iterations=1")
LONGEST = 1500  # characters of a message


def parameters() -> list[Any]:
    return [
        pytest.param(case, id=case["case"], marks=() if case.get("ci") else pytest.mark.slow)
        for case in CASES
    ]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, dict]:
    """Files of a run that works, and its settings."""
    folder = tmp_path_factory.mktemp("sound")
    return folder, tiny_settings(folder)


def plant(world: Path, faults: dict[str, Any]) -> None:
    """Put faults into the files of `world`."""
    for kind, places in faults.items():
        for place in places:
            value: Any = places[place] if isinstance(places, dict) else None
            file = world / place
            file.parent.mkdir(parents=True, exist_ok=True)
            if kind == "write":
                file.write_text(value, encoding="utf8")
            elif kind == "raw":
                file.write_bytes(value.encode("latin1"))
            elif kind == "append":
                file.write_text(file.read_text() + value, encoding="utf8")
            elif kind == "set":
                file.write_text(json.dumps(merged(json.loads(file.read_text()), value)))
            elif kind == "cut":
                os.truncate(file, value)
            elif kind == "remove":
                file.unlink()
            else:
                _plant_tensor(kind, file / "model.safetensors", value)


def merged(old: dict, new: dict) -> dict:
    """`old` with the keys of `new`, also inside objects."""
    both = {k: merged(old[k], v) if isinstance(old.get(k), dict) else v for k, v in new.items()}
    return {**old, **both}


def _plant_tensor(kind: str, file: Path, value: Any) -> None:
    state = load_file(file)
    if kind == "drop":
        del state[value]
    elif kind == "head":
        state["value_head.weight"] = torch.randn(value, state["value_head.weight"].shape[1])
        state.pop("prompt_head.weight", None)
    else:
        assert kind == "fill", kind
        name, number, *all_of_it = value
        (state[name] if all_of_it else state[name].view(-1)[:1]).fill_(number)
    save_file(state, file, metadata={"format": "pt"})


def contents(world: Path) -> dict[str, bytes]:
    files = [
        f for f in world.rglob("*") if f.is_file() and "runs" not in f.relative_to(world).parts
    ]
    return {str(f): f.read_bytes() for f in files}


def train(arguments: list[str], monkeypatch, capsys) -> tuple[int, str]:
    """The exit code of ``train.py`` in this process, and what it writes on the error stream."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    capsys.readouterr()
    try:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    except SystemExit as stopped:
        return int(stopped.code or 0), capsys.readouterr().err
    return 0, capsys.readouterr().err


@pytest.mark.parametrize("case", parameters())
def test_each_case_ends_as_the_table_says(case, sound, tmp_path, monkeypatch, capsys):
    folder, settings = sound
    world = Path(shutil.copytree(folder, tmp_path / "world"))
    plant(world, case.get("plant", {}))
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    given = [part.format(world=world) for part in case.get("with", "").split()]
    if not any(part.startswith("hydra.run.dir") for part in given):
        given.append(f"hydra.run.dir={world}/runs/run")
    names = {part.lstrip("+").partition("=")[0] for part in given}
    kept = [f"{k}={v}" for k, v in settings.items() if k not in {*names, "iterations"}]
    kept = [part.replace(str(folder), str(world)) for part in kept]
    before, sampled = contents(world), []
    sample = NativeSampler.sample
    monkeypatch.setattr(
        NativeSampler, "sample", lambda *a, **k: (sampled.append(1), sample(*a, **k))[1]
    )
    quiet = [part for part in QUIET if part.partition("=")[0] not in names]
    code, message = train([*kept, *quiet, *given], monkeypatch, capsys)
    assert contents(world) == before, "a file of the user's has changed"
    assert "Traceback" not in message, message[-3000:]
    if case["ends"] == "works":
        assert code == 0 and sampled, message
        return
    message = message[message.rfind("overrides: [") :].partition("\n")[2] or message
    assert code in (2, 3) and not sampled, message
    assert 0 < len(message) < LONGEST, message
    missing = [word for word in case["says"] if word not in message]
    assert not missing, f"{missing} are not in: {message}"


def test_the_table_is_one():
    names = [case["case"] for case in CASES]
    assert len(set(names)) == len(names) >= 60
    assert all(case["ends"] in ("works", "refused") for case in CASES)
    assert all(case.get("says") for case in CASES if case["ends"] == "refused")
