"""metrics.csv: one row per iteration, gaps left empty, nothing lost by a resume."""

from __future__ import annotations

from gprl_lightning.tracking.loggers import MetricsCSV
from gprl_lightning.tracking.metrics_file import read_metrics


def test_rows_of_one_iteration_are_merged_and_new_columns_are_added(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"eval/win_rate": 0.5}, step=0)
    logger.log_metrics({"train/loss": 1.0, "trainer/iteration": 1.0}, step=1)
    logger.log_metrics({"eval/win_rate": 0.75}, step=1)
    logger.log_metrics({"train/loss": 2.0}, step=2)
    assert read_metrics(tmp_path / "metrics.csv") == {
        "eval/win_rate": ([0, 1], [0.5, 0.75]),
        "train/loss": ([1, 2], [1.0, 2.0]),
    }


def test_a_resume_drops_the_rows_that_will_be_run_again(tmp_path):
    first = MetricsCSV(tmp_path)
    for step in range(5):
        first.log_metrics({"train/loss": float(step)}, step=step)
    second = MetricsCSV(tmp_path)
    second.continue_from(2)
    second.log_metrics({"train/loss": 30.0}, step=3)
    assert read_metrics(tmp_path / "metrics.csv")["train/loss"] == (
        [0, 1, 2, 3],
        [0.0, 1.0, 2.0, 30.0],
    )


def test_a_file_is_whole_after_every_row(tmp_path):
    logger = MetricsCSV(tmp_path)
    for step in range(3):
        logger.log_metrics({"a": 1.0, f"only/{step}": 2.0}, step=step)
        assert len(read_metrics(tmp_path / "metrics.csv")["a"][0]) == step + 1


def test_a_row_torn_by_a_kill_is_dropped(tmp_path):
    logger = MetricsCSV(tmp_path)
    for step in (1, 2):
        logger.log_metrics({"train/loss": 0.5, "train/kl": 0.1}, step)
    content = logger.file.read_text()
    logger.file.write_text(content[: content.rindex(",")])
    again = MetricsCSV(tmp_path)
    again.continue_from(2)
    again.log_metrics({"train/loss": 0.25, "train/kl": 0.2}, 2)
    assert read_metrics(logger.file)["train/loss"] == ([1, 2], [0.5, 0.25])
