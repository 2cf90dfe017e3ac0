"""The laboratory's world runs as it is written: given axes, the paper's monitor, tasks apart."""

from __future__ import annotations

import pytest

from gprl_lightning.config.validation import validate
from gprl_lightning.sandbox.contextual_gold import context_weights
from gprl_lightning.tasks.train_policy import train_policy
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.answer_log import eigenvalues_by_task, read_answers
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.report import write_report
from tests.composing import composed


def test_a_run_with_axes_that_can_be_hacked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # whatever takes its folder from Hydra
    cfg = composed(
        "experiment=laboratory",
        "preference_model=given_axes_poswords",
        "iterations=2",
        "data.held_out=40",
        "evaluation.prompts=40",
        "logger=none",
        f"paths.cache={tmp_path}",
    )
    config = validate(cfg)
    assert config.drift.enabled and config.data.prompts_per_step == 4
    train_policy(config, cfg, tmp_path / "run")
    columns = read_metrics(tmp_path / "run" / "metrics.csv")
    axes = ("poswords", "relevance", "diversity", "length", "fluency", "brevity", "size")
    eigenvalues = [columns[metrics.per_axis(metrics.AXIS_EIGENVALUE, a)][1][0] for a in axes]
    assert sum(eigenvalues) == pytest.approx(1)
    of_tasks = [
        metrics.of_task(metrics.EVAL_WIN_RATE_BY_TASK, task) for task in ("review", "praise")
    ]
    assert all(len(columns[name][1]) == 2 for name in of_tasks)
    answers = read_answers(tmp_path / "run", 2)
    assert [*answers[0]["qualities"]["gold"]] == [*context_weights("review")]
    tasks = eigenvalues_by_task(answers)
    assert len(tasks) == 5
    for task, found in tasks.items():
        expected = [weight / 5 for weight in context_weights(task).values()]
        assert found == pytest.approx(expected, abs=1e-6)
    assert write_report(tmp_path / "run").stat().st_size > 10_000
    assert not [*tmp_path.glob("gpm_*")]  # nothing was learned
