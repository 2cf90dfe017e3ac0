"""``trainer.profiler`` from the command line to a table in the run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from gprl_lightning.errors import ConfigError
from gprl_lightning.runtime.profiling import make_profiler
from tests.tiny_run import clean_environment, tiny_settings, train


@pytest.mark.parametrize("kind,row", [("simple", "training_step"), ("pytorch", "aten::")])
def test_a_profiled_run_leaves_a_table(tmp_path, kind, row):
    settings = [f"{k}={v}" for k, v in tiny_settings(tmp_path).items()]
    folder = tmp_path / "run"
    more = [f"hydra.run.dir={folder}", "evaluation.judge=none", "logger=none", "iterations=6"]
    more.append(f"trainer.profiler={kind}")
    done = train(*settings, *more, environment=clean_environment())
    assert done.returncode == 0, done.stderr
    assert row in (folder / "fit-profile.txt").read_text()


def test_none_is_no_profiler_and_others_are_refused():
    assert make_profiler(None, Path()) is None
    with pytest.raises(ConfigError, match=r"trainer\.profiler='fast': expected null, simple or"):
        make_profiler("fast", Path())
