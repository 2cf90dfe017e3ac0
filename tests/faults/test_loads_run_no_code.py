"""Nothing that the program loads may run code that comes with it, or ask at the terminal."""

from __future__ import annotations

import ast
import json
import shutil
import sys

import pytest

from gprl_lightning.config import PolicyConfig
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.policy import load_policy, save_policy
from tests.composing import ROOT
from tests.tiny import tiny_policy

# Of a load, the argument that keeps it from running code, and what it must be.
SAFE = {
    "from_pretrained": ("trust_remote_code", False),
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "fit": ("weights_only", True),
}
FORBIDDEN = ("pickle.load", "pickle.loads", "joblib.load", "torch.hub.load", "yaml.load", "eval")


def calls():
    for file in sorted((ROOT / "gprl_lightning").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield file.relative_to(ROOT), node, ast.unparse(node.func)


def test_every_load_says_that_it_runs_nothing():
    seen = set()
    for file, node, name in calls():
        found = name if name in SAFE else name.rpartition(".")[2]
        if found in SAFE and not (found == "fit" and not name.endswith("trainer.fit")):
            key, value = SAFE[found]
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert given.get(key) == str(value), f"{file}:{node.lineno}: {name} without {key}"
            seen.add(found)
    assert seen == set(SAFE)


def test_nothing_unpickles():
    assert [f"{f}:{n.lineno}" for f, n, name in calls() if name in FORBIDDEN] == []


def test_a_model_that_brings_code_is_refused_and_asks_nothing(tmp_path, monkeypatch):
    save_policy(tiny_policy(), tmp_path / "policy")
    file = tmp_path / "policy" / "config.json"
    config = json.loads(file.read_text())
    remote = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    file.write_text(json.dumps({**config, "model_type": "mine", "auto_map": remote}))
    sprung = tmp_path / "sprung"
    (tmp_path / "policy" / "code.py").write_text(f"open({str(sprung)!r}, 'w')\n")
    monkeypatch.setattr(sys.stdin, "readline", lambda: pytest.fail("it asked"), raising=False)
    with pytest.raises(ConfigError, match=r"policy\.path"):
        load_policy(PolicyConfig(path=str(tmp_path / "policy")), str(tmp_path / "policy"), 1.0)
    assert not sprung.exists()
    shutil.rmtree(tmp_path / "policy")
