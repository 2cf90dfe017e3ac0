"""report.png and the closing table, from a metrics.csv alone."""

from __future__ import annotations

import struct

from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.loggers import MetricsCSV, read_metrics
from gprl_lightning.tracking.report import summary_rows, write_report


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
