"""``python -m gprl_lightning report``: of a run, beside others, and where there is nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gprl_lightning.cli.report import main
from gprl_lightning.errors import ConfigError
from tests.composing import ROOT
from tests.tracking.report_runs import write_run


def test_it_writes_picture_and_page_beside_other_runs(tmp_path, capsys):
    one, other = (write_run(tmp_path / name, prompts=4) for name in ("one", "other"))
    assert main([str(one), str(other)]) == 0
    printed = capsys.readouterr().out
    assert "report.png" in printed and "report.html" in printed
    assert (one / "report.png").exists() and not (other / "report.html").exists()
    assert f"{tmp_path.name}/other" in (one / "report.html").read_text(encoding="utf8")


def test_help_says_what_it_takes(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "report.html" in (text := capsys.readouterr().out) and "OTHER" in text


def test_a_missing_folder_is_one_clear_line(tmp_path):
    command = [sys.executable, "-m", "gprl_lightning", "report", str(tmp_path / "no")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "expected the folder of a run or of a grid" in line


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds metrics"):
        main([str(tmp_path)])
    with pytest.raises(ConfigError, match="holds metrics"):
        main([str(write_run(tmp_path / "one", prompts=2)), str(tmp_path)])
