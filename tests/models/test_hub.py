"""Models by their hub name: the real client against a hub on loopback, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import torch

from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.policy import save_policy
from gprl_lightning.models.pretrained_preference import load_preference_model, save_preference_model
from tests.composing import ROOT
from tests.hub import hub
from tests.tiny import tiny_model, tiny_policy, tiny_tokenizer
from tests.tiny_run import clean_environment

LOAD = """
import sys, torch
import gprl_lightning
from gprl_lightning.config import PolicyConfig
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.policy import load_policy

judge = gprl_lightning.load_preference_model("lab/gpm")
policy = load_policy(PolicyConfig(path="lab/policy"), "lab/policy", 1.0)
waiting = load_policy(PolicyConfig(path="lab/policy"), "lab/policy", 1.0, deferred=True)
assert waiting.weights_from is not None, "downloaded, and read shard by shard"
assert all(p.is_meta for p in waiting.parameters())
torch.save((judge.compare("a b", ["a", "b c"]).score, policy.state_dict()), sys.argv[1])

for unknown in (
    lambda: gprl_lightning.load_preference_model("lab/none"),
    lambda: load_policy(PolicyConfig(), "lab/none", 1.0),
):
    try:
        unknown()
    except ConfigError as error:
        print("refused:", error)
"""


def in_a_process(code: str, address: str, folder, *arguments: str):
    environment = {k: v for k, v in clean_environment().items() if not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(folder / "home"), "NO_PROXY": "*"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_models_by_their_hub_names(tmp_path):
    """Found whole and shard by shard; a name that the hub does not know is refused by its key."""
    repositories = tmp_path / "hub" / "lab"
    judge = from_backbone(tiny_model("llama", seed=3).model, tiny_tokenizer(), num_axes=2)
    save_preference_model(judge, repositories / "gpm")
    policy = tiny_policy()
    save_policy(policy, repositories / "policy")
    with hub(tmp_path / "hub") as address:
        done = in_a_process(LOAD, address, tmp_path, str(tmp_path / "found.pt"))
    assert done.returncode == 0, done.stderr[-3000:]
    score, weights = torch.load(tmp_path / "found.pt")
    from_folder = load_preference_model(repositories / "gpm")
    torch.testing.assert_close(score, from_folder.compare("a b", ["a", "b c"]).score)
    assert all(torch.equal(weights[name], value) for name, value in policy.state_dict().items())
    refused = [line for line in done.stdout.splitlines() if line.startswith("refused:")]
    assert "preference_model.path='lab/none'" in refused[0]
    assert "policy.path='lab/none'" in refused[1]
