"""The GPU script runs whole at toy size on a CPU, and a check that fails is seen."""

from __future__ import annotations

import json
import re

import pytest

from tests.composing import ROOT
from tests.gpu import carry, check, correctness
from tests.gpu.correctness import Finding


def test_the_script_runs_at_toy_size(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    assert check.main(["--toy", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["checks"]
    assert set(correctness.CHECKS) < set(rows) and rows["profile of a rollout"]["top"]
    assert rows["two iterations, bf16-mixed"]["holds"]
    assert rows["two iterations, bfloat16 weights, float32 masters"]["holds"]
    assert "FAIL" not in capsys.readouterr().out


@pytest.mark.parametrize("check_", [lambda: Finding({"x": 1.0}, False), lambda: 1 / 0])
def test_a_check_that_fails_is_seen_and_the_others_run(check_, tmp_path, capsys):
    report = check.Report(1.0, tmp_path / "gpu.json")
    report.add("bad", check_)
    report.add("good", lambda: Finding({"x": 1.0}, True))
    assert "FAIL bad" in capsys.readouterr().out
    rows = json.loads((tmp_path / "gpu.json").read_text())["checks"]
    assert not rows["bad"]["holds"] and rows["good"]["holds"]


def test_nothing_is_begun_when_the_time_is_up(tmp_path):
    report = check.Report(0.0, tmp_path / "gpu.json")
    report.add("long", lambda: Finding({"ran": "yes"}, True), needs=60)
    assert "not run" in report.rows["long"]


def test_what_is_carried_is_all_that_the_project_needs_but_what_is_there():
    there = {"torch", "lightning", "torchmetrics", "safetensors", "numpy", "rich", "matplotlib"}
    text = (ROOT / "pyproject.toml").read_text()
    listed = text.partition("\ndependencies = [")[2].partition("]")[0]
    needed = set(re.findall(r'"([A-Za-z0-9_-]+)', listed)) - there - {"jinja2"}
    carried = {re.split("[<>=]", p)[0] for p in (*carry.PACKAGES, *carry.WITH_NEEDS)}
    assert len(needed) > 5 and needed <= carried
