"""What the README tells a newcomer to type works as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from gprl_lightning.config.validation import validate
from tests.composing import ROOT, composed
from tests.tiny_run import clean_environment, tiny_settings, train

TEXT = (ROOT / "README.md").read_text(encoding="utf8")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python train.py")
]
PAIRS = ROOT / "tests" / "fixtures" / "readme_pairs.jsonl"


def _real(arguments: list[str], folder: Path) -> list[str]:
    """The arguments, with the reader's own paths put to files that exist."""
    settings = tiny_settings(folder)
    own = {
        "my/policy": settings["policy.path"],
        "my/gpm": settings["preference_model.path"],
        "prompts.jsonl": settings["data.path"],
        "pairs.jsonl": PAIRS,
        "runs/my_run": folder / "my_run",
    }
    found = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        found.append(f"{key}={own.get(value, value)}")
    return found


def test_there_are_commands():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_is_a_valid_configuration(command, tmp_path):
    arguments = _real(command[2:], tmp_path)
    arguments = [a for a in arguments if not a.startswith(("hydra.", "ckpt_path=", "grid="))]
    validate(composed(*arguments))


def test_the_main_command_trains(tmp_path):
    """`make train`, shortened by overrides: real preference model, real policy, table and
    picture."""
    short = f"experiment=smoke hydra.run.dir={tmp_path}/run"
    done = subprocess.run(
        ["make", "train", f"ARGS={short} paths.cache={tmp_path}/cache"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "held-out win rate" in done.stdout
    assert "[INFO]" not in done.stdout + done.stderr  # what libraries tell of files that they save
    left = {path.name for path in (tmp_path / "run").iterdir()}
    promised = {"config.yaml", "provenance.json", "metrics.csv", "summary.json", "report.png"}
    promised |= {"report.html", "answers", "checkpoints", "policy", "rollouts"}
    assert promised <= left


def test_ones_own_model_data_and_preference_model(tmp_path):
    (command,) = [c for c in COMMANDS if "policy.path=my/policy" in c]
    arguments = _real(command[2:], tmp_path)
    fewer = [f"{k}={v}" for k, v in tiny_settings(tmp_path).items() if not k.endswith(".path")]
    done = train(*arguments, *fewer, "logger=none", environment=clean_environment())
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_three_lines_of_python(tmp_path, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    judge = str(tiny_settings(tmp_path)["preference_model.path"])
    exec(block.replace("general-preference/GPM-Gemma-2B", judge), {})
    assert capsys.readouterr().out.count("0.5") >= 3  # the diagonal: nobody beats himself


def test_make_test_is_what_continuous_integration_runs():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    plan = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True)
    assert "pytest" in plan.stdout


def test_every_file_that_the_readme_points_to_exists():
    targets = re.findall(r"\]\((?!http)([^)#]+)", TEXT)
    assert targets
    assert not [t for t in targets if not (ROOT / t).exists()]


ELSEWHERE = ("llama3_8b", "smollm2", "ckpt_path", "grid=")  # a hub, hours, or a test of its own


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if not any(e in " ".join(c) for e in ELSEWHERE)], ids=" ".join
)
def test_every_command_runs(command, tmp_path):
    """For real, with fewer iterations and pairs."""
    short = ["iterations=2", "evaluation.prompts=8", "logger=none", f"paths.output={tmp_path}/runs"]
    short += [f"paths.cache={tmp_path}/cache", "preference_training.sandbox_pairs=100"]
    short += ["preference_training.held_out_pairs=20", "preference_training.epochs=1"]
    done = train(*_real(command[2:], tmp_path), *short, environment=clean_environment())
    assert done.returncode == 0, done.stderr[-3000:]
