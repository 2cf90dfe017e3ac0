"""The study in small, by its commands: a grid with a replayed arm, skipped if done, reported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.composing import ROOT
from tests.tiny_run import clean_environment, train

ARMS = ("none", "grpo_bt_replayed", "gold_reward")
SHORT = (
    "iterations=5",
    "evaluation.every=2",
    "evaluation.prompts=8",
    "data.prompts_per_step=2",
    "rollout.max_new_tokens=12",
    "drift.calibration_steps=2",
    "drift.threshold=1e-5",
    "preference_training.sandbox_pairs=64",
    "preference_training.sandbox_prompts=40",
    "preference_training.held_out_pairs=16",
)


@pytest.mark.slow
def test_the_grid_its_replayed_arm_and_its_page(tmp_path):
    arguments = [
        "grid=paper_table",
        'hydra.sweeper.params.seed="0"',
        f'hydra.sweeper.params.ablation="{",".join(ARMS)}"',
        f"paths.output={tmp_path}/runs",
        f"paths.cache={tmp_path}/cache",
        *SHORT,
    ]
    done = train(*arguments, environment=clean_environment(), timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    grid = tmp_path / "runs" / "study" / "grid_paper_table"
    jobs = {arm: next(grid.glob(f"ablation={arm},*")) for arm in ARMS}
    betas = {
        arm: read_metrics(jobs[arm] / "metrics.csv")[metrics.DRIFT_KL_COEF][1]
        for arm in ("none", "grpo_bt_replayed")
    }
    assert len(set(betas["none"])) > 1, "the controller must have acted"
    assert betas["grpo_bt_replayed"][:-1] == betas["none"][:-1]
    gold = read_metrics(jobs["gold_reward"] / "metrics.csv")
    assert gold[metrics.EVAL_PROXY_WIN_RATE][1] == pytest.approx(gold[metrics.EVAL_WIN_RATE][1])

    again = train(*arguments, environment=clean_environment(), timeout=300)
    assert again.returncode == 0 and "3 of 3 jobs are finished" in again.stdout + again.stderr
    command = [sys.executable, "-m", "gprl_lightning", "report", str(grid)]
    report = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert report.returncode == 0, report.stderr[-2000:]
    assert "GPRL, full" in (grid / "report" / "index.html").read_text(encoding="utf8")
