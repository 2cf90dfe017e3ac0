"""The command line: quick help, one readable message per mistake, isolated jobs of a grid."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hydra.errors import HydraException

from gprl_lightning.cli.entry import explain
from tests.composing import CONF, ROOT, composed, options
from tests.processes import run_forked

TOY = ROOT / "tests/integration/toy_app.py"
TEN_KEYS = [
    "iterations", "seed", "policy.path", "preference_model.path", "data.path",
    "data.prompts_per_step", "rollout.group_size", "rollout.max_new_tokens", "optimizer.lr",
    "algorithm.kl_coef",
]  # fmt: skip


def environment_of(more: dict[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def run(*command: str, cwd=ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    """For what looks at imports, or starts processes of its own."""
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment_of(more), capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip


def run_toy(*words: str, cwd, **more: str) -> subprocess.CompletedProcess[str]:
    return run_forked([str(TOY), *words], environment_of(more), 120, cwd=cwd)


def test_help_lists_groups_options_and_keys_without_heavy_imports():
    script = (
        "import atexit, runpy, sys\n"
        "heavy = ('torch', 'transformers', 'lightning', 'wandb', 'numpy')\n"
        "atexit.register(lambda: print('LOADED', [m for m in heavy if m in sys.modules]))\n"
        "sys.argv = ['train.py', '--help']\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    shown = run("-c", script)
    assert shown.returncode == 0, shown.stderr
    assert "LOADED []" in shown.stdout
    lines = shown.stdout.splitlines()
    for group in (d.name for d in CONF.iterdir() if d.is_dir() and d.name != "hydra"):
        assert f"{group}: {', '.join(options(group))}" in lines
    keys = [line.strip().partition("=")[0] for line in lines]
    assert [key for key in keys if key in TEN_KEYS] == TEN_KEYS


def test_a_mistake_is_one_message_and_exit_code_2(tmp_path):
    refused = run_toy("rollout.group_size=1", cwd=tmp_path)
    assert refused.returncode == 2
    assert "rollout.group_size=1: expected >= 2" in refused.stderr
    assert "Traceback" not in refused.stderr
    shown = run_toy("rollout.grop_size=1", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert shown.returncode != 0 and "Traceback" in shown.stderr
    refused = run_toy("policy.lora.r=4", cwd=tmp_path)
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)
    assert "add lora=adapters" in refused.stderr


@pytest.mark.parametrize(
    "override,message",
    [
        ("rollout.grop_size=4", "there is no such key. Did you mean rollout.group_size?"),
        ("seeds=4", "Did you mean seed?"),
        ("trainer.precison=4", "Did you mean trainer.precision?"),
        ("optimizer.foreach=true", "write +optimizer.foreach="),
        ("ablation=single_axes", "Did you mean ablation=single_axis?"),
        ("experiment=nothing_like_it", "The options are detector_study, "),
        (
            "rollout.group_size=eight",
            "Value 'eight' of type 'str' could not be converted to Integer",
        ),
    ],
)
def test_hydra_s_own_errors_are_explained(override, message):
    with pytest.raises(HydraException) as error:
        composed(override)
    text = explain(error.value)
    assert message in text and "search path" not in text
    assert override.partition("=")[0] in text


def test_shell_completion():
    """What the shell asks Hydra for at `python train.py ablation=single<TAB>`."""
    line = "python train.py ablation=single"
    asked = run("train.py", "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert asked.stdout.split() == ["ablation=single_axis"]


def summaries(folder) -> dict[str, dict]:
    return {f.parent.name: json.loads(f.read_text()) for f in folder.glob("*/summary.json")}


def test_jobs_are_isolated_skipped_when_finished_and_tabled(tmp_path):
    """By joblib, side by side, one arm failing; then the same command by the basic launcher."""
    command = [str(TOY), "grid=weighting", "seed=1,2"]
    folder = tmp_path / "runs/sandbox/grid_weighting"
    first = run(*command, "hydra/launcher=cores", cwd=tmp_path, TOY_FAILS="uniform")
    assert first.returncode == 1
    assert "2 of 4 jobs failed" in first.stderr and "Traceback" not in first.stderr
    assert "algorithm.weighting=uniform seed=2: RuntimeError: planted" in first.stderr
    finished = summaries(folder)
    assert finished.keys() == {f"algorithm.weighting=eigenvalue,seed={s}" for s in (1, 2)}

    second = run(*command, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "2 of 4 jobs are finished: skipped" in second.stdout
    after = summaries(folder)
    assert len(after) == 4 and finished.items() <= after.items()
    # Seeds 1 and 2 give .6 and .7: mean .65, and t(1) · s / √2 = 12.706 · .05 = .6353.
    table = (folder / "grid.csv").read_text().splitlines()
    assert table[0] == "arm,jobs,eval/win_rate,eval/win_rate ±"
    assert [row.split(",")[0] for row in table[1:]] == [
        "algorithm.weighting=eigenvalue",
        "algorithm.weighting=uniform",
    ]
    assert "0.65 ± 0.64" in second.stdout

    job = after["algorithm.weighting=uniform,seed=1"]
    # What a DDP run starts its other processes with: this job alone, in this folder.
    expected = ["algorithm.weighting=uniform", "seed=1", "grid=weighting", "hydra.mode=RUN"]
    assert job["arguments"] == expected
    assert job["run_dir"] == str(folder / "algorithm.weighting=uniform,seed=1")
    assert job["logger"]["wandb"]["group"] == "grid_weighting"
    assert job["logger"]["wandb"]["name"] == "algorithm.weighting=uniform,seed=1"


def test_jobs_through_submitit(tmp_path):
    done = run(str(TOY), "-m", "seed=0,1", "hydra/launcher=local_queue", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs/sandbox").glob("multirun_*")
    found = summaries(folder)
    assert found.keys() == {"seed=0", "seed=1"}
    assert len({job["process"] for job in found.values()}) == 2


def test_the_job_s_own_arguments_run_it_alone(tmp_path):
    """`hydra.mode=RUN` has the last word over the grid's."""
    alone = ["algorithm.weighting=uniform", "seed=1", "grid=weighting", "hydra.mode=RUN"]
    done = run_toy(*alone, "hydra.run.dir=here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here/summary.json").exists() and not (tmp_path / "runs").exists()


def test_help_lists_every_group_with_its_options_and_those_of_one_s_own(tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "mine.yaml").write_text("path: sandbox\n")
    shown = run("train.py", "--config-dir", str(tmp_path), "--help", cwd=ROOT)
    assert shown.returncode == 0
    lines = dict(line.split(": ", 1) for line in shown.stdout.splitlines() if ": " in line)
    for group in ("policy", "experiment", "algorithm/policy_loss", "objective"):
        listed = set(lines[f"{group}"].split(", "))
        assert {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")} <= listed
    assert "mine" in lines["policy"].split(", ")
