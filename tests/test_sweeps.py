"""The W&B sweep files: valid by W&B's own schema, and the agent's command line composes."""

from __future__ import annotations

import json
from itertools import product

import pytest
import yaml
from jsonschema import Draft7Validator
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from gprl_lightning.config.validation import validate
from gprl_lightning.tracking import metrics
from tests.composing import ROOT, composed

SCHEMA = ROOT / "tests/fixtures/wandb_sweep_schema/schema.json"  # wandb/sweeps 0.3.0, MIT
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))


def candidates(parameter: dict) -> list:
    """The ends of a parameter's range, or all of its values."""
    if "value" in parameter:
        return [parameter["value"]]
    return parameter.get("values") or [parameter["min"], parameter["max"]]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_sweep_file(file, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    sweep = yaml.safe_load(file.read_text())
    Draft7Validator(json.loads(SCHEMA.read_text())).validate(sweep)
    assert sweep["metric"] == {"name": metrics.EVAL_WIN_RATE, "goal": "maximize"}
    assert (ROOT / sweep["program"]).exists()
    assert sweep["command"][-1] == "${args_no_hyphens}"
    names = list(sweep["parameters"])
    seen = set()
    for values in product(*(candidates(sweep["parameters"][name]) for name in names)):
        if "seed" in names and values[names.index("seed")] != 0:
            continue
        args = {name: {"value": value} for name, value in zip(names, values, strict=True)}
        line = create_sweep_command_args({"args": args})["args_no_hyphens"]
        config = validate(composed(*line))
        assert config.logger["wandb"]["mode"] == "online"
        seen.add(repr(config))
    assert len(seen) > 1, "every trial is the same run"


def test_the_readme_has_one_command_per_file():
    text = (ROOT / "sweeps/README.md").read_text()
    commands = {f"wandb sweep sweeps/{file.name}" for file in FILES}
    assert {c for c in commands if f"`{c}`" in text} == commands
    assert text.count("`wandb sweep sweeps/") == len(FILES)
