"""Figures that ask for doubt are said: on the console when they first hold, and in the table."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gprl_lightning.callbacks.caution import Caution
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.cautions import KL_BOUND, WINDOW, result_cautions
from gprl_lightning.tracking.report import summary_rows
from gprl_lightning.tracking.run_folder import judge_of

CASES = [
    (metrics.KL, [0.0] + [KL_BOUND + 0.01] * WINDOW, True),
    (metrics.KL, [9.0] + [KL_BOUND - 0.01] * WINDOW, False),
    (metrics.TRUNCATED_FRACTION, [0.0] + [1.0] * WINDOW, True),
    (metrics.TRUNCATED_FRACTION, [1.0] * (WINDOW - 1) + [0.9], False),
    (metrics.NO_SIGNAL_FRACTION, [0.6] * WINDOW, True),
    (metrics.NO_SIGNAL_FRACTION, [0.5] * WINDOW, False),
    (metrics.REWARD_CUT_FRACTION, [0.0] * (WINDOW - 1) + [0.01], True),
    (metrics.REWARD_CUT_FRACTION, [1.0] + [0.0] * WINDOW, False),
    (metrics.of_judge(metrics.EVAL_CUT_FRACTION, "mine"), [0.0, 0.01], True),
    (metrics.of_judge(metrics.EVAL_CUT_FRACTION, "mine"), [0.0, 0.0], False),
    (metrics.of_judge(metrics.EVAL_UNDECIDED, "mine"), [0.1, 0.51], True),
    (metrics.of_judge(metrics.EVAL_UNDECIDED, "mine"), [0.5, 0.5], False),
]


@pytest.mark.parametrize("name,values,expected", CASES)
def test_bounds(name, values, expected):
    assert list(result_cautions({name: values})) == ([name] if expected else [])


@pytest.mark.parametrize("name,values,expected", CASES)
def test_the_console_is_told_once(name, values, expected, capsys):
    caution = Caution()
    for value in [*values[-WINDOW:], *values[-1:]]:
        trainer = SimpleNamespace(callback_metrics={name: torch.tensor(value)}, is_global_zero=True)
        caution.on_train_batch_end(trainer, None, None, None, 0)  # type: ignore[arg-type]
    assert capsys.readouterr().err.count("caution: ") == int(expected)


def test_a_short_history_is_no_ground_yet(capsys):
    caution = Caution()
    trainer = SimpleNamespace(callback_metrics={metrics.KL: torch.tensor(9.0)}, is_global_zero=True)
    for _ in range(WINDOW - 1):
        caution.on_train_batch_end(trainer, None, None, None, 0)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""


def test_the_table_says_whose_win_rate_it_is(tmp_path):
    names = ("EVAL_WIN_RATE", "EVAL_WIN_RATE_LOW", "EVAL_WIN_RATE_HIGH", "EVAL_LENGTH_CONTROLLED",
             "EVAL_PROXY_WIN_RATE", "EVAL_RESPONSE_LENGTH")  # fmt: skip
    columns = {getattr(metrics, name): ([0], [0.5]) for name in names}
    assert ("… judged by", "someone") in summary_rows(columns, judge="someone")
    assert judge_of(tmp_path) == ""
    (tmp_path / "config.yaml").write_text("evaluation: {judge: my_judges.better}\n")
    assert judge_of(tmp_path) == "better: my_judges.better"


def test_the_table_ends_with_them():
    columns = {metrics.KL: ([1, 2], [3.0, 3.0])}
    rows = summary_rows(columns, ["of the set-up"])
    assert rows[-2] == ("caution", "of the set-up")
    assert rows[-1][0] == "caution" and "3.00 nats per token, beyond 0.5" in rows[-1][1]
