"""``report`` on a run's files that were cut or changed: one message and exit code 2."""

from __future__ import annotations

import json

import pytest

from gprl_lightning.__main__ import run
from gprl_lightning.tracking.loggers import ITERATION

METRICS = f"{ITERATION},train/loss\n1,0.5\n2,0.25\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.csv", METRICS.replace("0.5", "half")),
        ("summary.json", '{"cautions": ['),
        ("summary.json", "[]"),
        ("summary.json", ""),
        ("config.yaml", "evaluation: {judge: ["),
        ("config.yaml", "\0\0"),
    ],
)
def test_a_file_that_was_cut_is_one_message(name, content, tmp_path, capsys):
    (tmp_path / "metrics.csv").write_text(METRICS)
    (tmp_path / "summary.json").write_text(json.dumps({"cautions": []}))
    (tmp_path / "config.yaml").write_text("evaluation: {judge: none}\n")
    (tmp_path / name).write_text(content)
    before = (tmp_path / name).read_bytes()
    code = run("report", [str(tmp_path)])
    message = capsys.readouterr().err
    assert code == 2 and str(tmp_path) in message and "expected" in message
    assert message.count("\n") == 1 and len(message) < 600
    assert (tmp_path / name).read_bytes() == before
