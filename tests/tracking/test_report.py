"""report.png and the closing table, from a metrics.csv alone."""

from __future__ import annotations

import struct

import pytest
from matplotlib.figure import Figure

from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.answer_log import (
    answer_file,
    answered_iterations,
    eigenvalues_by_task,
)
from gprl_lightning.tracking.loggers import MetricsCSV
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.panels import other_panels, panels_of
from gprl_lightning.tracking.report import draw_tasks, summary_rows, write_report
from tests.tracking.report_runs import write_run


def _log(folder, with_evaluation: bool = True):
    logger = MetricsCSV(folder)
    for step in range(1, 5):
        row = {metrics.KL: 0.1 * step, metrics.DRIFT_ACTIVE: float(step > 2)}
        row |= {metrics.DRIFT_DIVERGENCE: 0.01 * step, metrics.TIME_ROLLOUT: 0.5}
        row |= {metrics.per_axis(metrics.AXIS_MULTIPLIER, axis): 1.0 for axis in range(3)}
        if with_evaluation:
            row |= {metrics.EVAL_WIN_RATE: 0.5 + 0.05 * step, metrics.EVAL_WIN_RATE_LOW: 0.4}
            row |= {metrics.EVAL_WIN_RATE_HIGH: 0.8, metrics.EVAL_LENGTH_CONTROLLED: 0.6}
            row |= {metrics.EVAL_PROXY_WIN_RATE: 0.7, metrics.EVAL_RESPONSE_LENGTH: 20.0 + step}
            row |= {metrics.per_axis(metrics.EVAL_GOLD, "sentiment"): 0.2 * step}
        logger.log_metrics(row, step=step)


def test_the_table_says_what_was_measured(tmp_path):
    _log(tmp_path)
    rows = dict(summary_rows(read_metrics(tmp_path / "metrics.csv")))
    assert rows["held-out win rate"] == "70.0%  (95 %: 40.0% – 80.0%)"
    assert rows["gold/sentiment"] == "0.200 → 0.800"
    assert rows["drift interventions"] == "2 of 4"
    assert rows["KL to the reference"] == "0.4000 nats per token"


def test_without_evaluation_nothing_is_made_up(tmp_path):
    _log(tmp_path, with_evaluation=False)
    names = [name for name, _ in summary_rows(read_metrics(tmp_path / "metrics.csv"))]
    assert not [n for n in names if "win" in n or "gold" in n]
    assert write_report(tmp_path).exists()


def test_the_picture_is_a_picture(tmp_path):
    _log(tmp_path)
    data = write_report(tmp_path).read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data[1:4] == b"PNG"
    assert width > 1000 < height * 2


def _series(*names: str):
    return {name: ([1, 2], [0.5, 0.6]) for name in names}


def test_a_preference_model_s_run_has_its_learning_curve(tmp_path):
    columns = _series(metrics.PREFERENCE_ACCURACY, metrics.HELD_OUT_ACCURACY, metrics.HELD_OUT_LOSS)
    panels = panels_of(columns)
    assert [sorted(panel.lines.values()) for panel in panels] == [
        ["held-out pairs", "training pairs"],
        ["held-out pairs"],
    ]
    assert ("accuracy on held-out pairs", "0.500 → 0.600") in summary_rows(columns)
    logger = MetricsCSV(tmp_path)
    for step in (1, 2):
        logger.log_metrics(dict.fromkeys(columns, 0.5), step=step)
    assert write_report(tmp_path).exists()


def test_no_panel_is_empty_and_none_shows_what_cannot_change():
    axis = metrics.per_axis(metrics.AXIS_EIGENVALUE, "0")
    only = _series(metrics.KL, axis, metrics.DRIFT_THRESHOLD)
    assert [list(panel.lines) for panel in panels_of(only)] == [[metrics.KL]]
    assert {n for panel in other_panels(only) for n in panel.lines} == set(only) - {metrics.KL}
    several = only | _series(metrics.per_axis(metrics.AXIS_EIGENVALUE, "1"))
    assert "eigenvalues λ, mean over prompts" in [panel.title for panel in panels_of(several)]


def test_multipliers_and_kl_coefficient_have_a_panel_once_the_controller_moved_them():
    multiplier = metrics.per_axis(metrics.AXIS_MULTIPLIER, "0")
    moved = _series(metrics.DRIFT_KL_COEF, multiplier)
    at_rest = {name: ([1, 2], [1.0, 1.0]) for name in moved}
    assert panels_of(at_rest) == []
    assert [list(panel.lines) for panel in panels_of(moved)] == [
        [multiplier],
        [metrics.DRIFT_KL_COEF],
    ]


def test_eigenvalues_by_task_are_means_over_its_prompts():
    rows = [
        {"task": "reply", "eigenvalues": [0.2, 0.8]},
        {"task": "reply", "eigenvalues": [0.4, 0.6]},
        {"task": "describe", "eigenvalues": [0.9, 0.1]},
        {"task": "", "eigenvalues": [0.0, 1.0]},
    ]
    found = eigenvalues_by_task(rows)
    assert found["reply"] == pytest.approx([0.3, 0.7])
    assert found["describe"] == [0.9, 0.1] and len(found) == 2
    assert eigenvalues_by_task(rows[:2]) == {}
    assert eigenvalues_by_task([{"task": str(i), "eigenvalues": [1.0]} for i in range(3)]) == {}


def test_the_picture_has_a_panel_of_them_where_there_are_tasks(tmp_path):
    with_tasks = write_report(write_run(tmp_path / "run")).read_bytes()
    for iteration in answered_iterations(tmp_path / "run"):
        answer_file(tmp_path / "run", iteration).unlink()
    assert write_report(tmp_path / "run").read_bytes() != with_tasks


def test_a_judge_s_axes_are_one_panel_and_its_win_rate_is_not_among_them():
    columns = _series(
        "eval/mine/clarity", "eval/mine/wit", metrics.of_judge("eval/win_rate", "mine")
    )
    win, panel = panels_of(columns)
    assert list(win.lines.values()) == ["mine"]
    assert panel.title == "what the judge mine finds"
    assert sorted(panel.lines.values()) == ["clarity", "wit"]


def test_each_judge_has_a_curve_under_its_name():
    names = [metrics.of_judge(metrics.EVAL_WIN_RATE, n) for n in ("mine", "second", "proxy")]
    columns = _series(*names)
    columns[names[0]] = columns[metrics.EVAL_WIN_RATE] = ([0, 1], [0.5, 0.9])  # the quoted one
    columns[metrics.EVAL_LENGTH_CONTROLLED] = ([0, 1], [0.5, 0.8])
    (panel,) = panels_of(columns)
    assert list(panel.lines.values()) == ["mine", "second", "reward", "mine, at equal length"]
    assert metrics.EVAL_WIN_RATE in panel.lines and names[0] not in panel.lines


def test_win_rates_by_task_are_a_panel_of_their_own():
    names = [metrics.of_task(metrics.EVAL_WIN_RATE_BY_TASK, task) for task in ("praise", "review")]
    columns = {name: ([0, 20], [0.5, 0.7]) for name in names}
    (panel,) = panels_of(columns)
    assert panel.title == "win rate by task"
    assert list(panel.lines.values()) == ["praise", "review"]
    assert other_panels(columns) == []


def test_the_map_of_eigenvalues_says_each_task_s_numbers():
    plot = Figure().subplots()
    draw_tasks(plot, {"praise": [0.6, 0.4], "review": [-0.1, 1.1]}, ("kind", "brief"))
    assert [text.get_text() for text in plot.texts] == ["0.60", "0.40", "-0.10", "1.10"]
    assert [label.get_text() for label in plot.get_xticklabels()] == ["kind", "brief"]
    assert [label.get_text() for label in plot.get_yticklabels()] == ["praise", "review"]
    (picture,) = plot.images
    assert picture.get_clim() == (-0.1, 1.1)
