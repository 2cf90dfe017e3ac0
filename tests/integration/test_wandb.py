"""What W&B really gets from a run that is offline: logs read back."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import OmegaConf

from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.loggers import recorded_by
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.rollout_log import read_rows, rollout_file
from gprl_lightning.tracking.wandb_logger import GPRLWandbLogger
from tests.composing import ROOT
from tests.tiny_run import clean_environment, tiny_settings, train
from tests.wandb_backend import private
from tests.wandb_log import OfflineRun
from tests.wandb_runs import (
    CONFIG,
    check_history,
    new_machine,
    offline_run,
    offline_runs,
    wandb_run,
)
from tests.worlds import SIZE


@pytest.fixture
def home(tmp_path: Path) -> Iterator[None]:
    with new_machine(tmp_path / "home", {}):
        yield


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> tuple[Path, Path, OfflineRun, str]:
    """(the run's folder, W&B's, what it logged, what it printed)"""
    folder = tmp_path_factory.mktemp("offline") / "the_run"
    about = {"project": "axes", "group": "a group", "tags": ["one", "two"], "notes": "why not"}
    said = io.StringIO()
    with new_machine(folder.parent / "home", {}), redirect_stdout(said):
        wandb_run(folder, job_type="train_policy", **about)
        ((log, run),) = offline_runs(folder)
    return folder, log, run, said.getvalue()


def test_an_offline_run_has_everything(offline):
    folder, log, run, said = offline
    assert log.is_relative_to(folder)
    assert run.exit_code == 0
    names = ("display_name", "project", "run_group", "job_type", "notes", "tags")
    wanted = ["the_run", "axes", "a group", "train_policy", "why not", ["one", "two"]]
    assert [run.about[name] for name in names] == wanted

    assert {key: run.config[key] for key in CONFIG} == CONFIG
    made_of = run.config["provenance"]
    assert made_of["command"] == [sys.executable, *sys.argv]
    assert made_of["versions"]["torch"] and made_of["python"].startswith("3.")

    assert run.step_metrics["*"] == metrics.ITERATION
    check_history(folder, run)
    assert run.summary[metrics.LOSS] == run.values(metrics.LOSS)[-1]

    (line,) = [line for line in said.splitlines() if "wandb sync" in line]
    assert (ROOT / line.split("wandb sync ")[1]).resolve() == log.resolve()
    assert said.count("wandb") == line.count("wandb"), "wandb itself is silent"


def test_tables_images_and_histograms_are_logged(offline):
    folder, log, run, _ = offline
    with_table = [row for row in run.history if metrics.RESPONSES in row]
    tables = {row[metrics.ITERATION]: row[metrics.RESPONSES] for row in with_table}
    assert list(tables) == [1, 2, 4]
    table = json.loads((log / "files" / tables[2]["path"]).read_text())
    assert len(table["data"]) == 3 * SIZE
    responses = [row[table["columns"].index("response")] for row in table["data"]]
    rows = read_rows(rollout_file(folder, 2))
    assert responses == [row["response"] for row in rows]
    for image in run.values(metrics.WIN_PROBABILITY):
        assert (log / "files" / image["path"]).stat().st_size > 1000
    for name in (metrics.AXIS_GROUP_SCORE, metrics.AXIS_ADVANTAGE):
        for axis in range(3):
            histograms = run.values(metrics.per_axis(name, axis))
            assert [sum(h["values"]) for h in histograms] == [3 * SIZE] * 3

    (interventions,) = run.values(metrics.DRIFT_INTERVENTIONS)
    table = json.loads((log / "files" / interventions["path"]).read_text())
    rows = (folder / "drift_interventions.csv").read_text().splitlines()
    assert table["columns"] == rows[0].split(",")
    assert len(table["data"]) == len(rows) - 1 > 0


def test_two_runs_in_one_process_do_not_bleed(home, tmp_path):
    """Not even where the first was never closed."""
    import wandb

    left_open = GPRLWandbLogger(tmp_path / "left_open")
    left_open.log_metrics({"before": 1.0}, 1)
    for name in ("first", "second"):
        wandb_run(tmp_path / name, iterations=2)
        assert wandb.run is None
    by_name = {run.about["display_name"]: run for _, run in offline_runs(tmp_path)}
    assert set(by_name) == {"left_open", "first", "second"}
    assert len({run.about["run_id"] for run in by_name.values()}) == 3
    for name in ("first", "second"):
        check_history(tmp_path / name, by_name[name], 2)
        assert not by_name[name].values("before")
    assert by_name["left_open"].values("before") == [1.0]
    assert not by_name["left_open"].values(metrics.LOSS)


@pytest.mark.parametrize(
    "error,code",
    [(RuntimeError("planted"), 1), (SystemExit(7), 7), (SIGTERMException(), 143)],
)
def test_a_run_that_fails_says_so(home, tmp_path, error, code):
    logger = GPRLWandbLogger(tmp_path)
    with pytest.raises(type(error)) as raised, recorded_by([logger], OmegaConf.create({})):
        raise error
    if isinstance(error, SystemExit):
        assert raised.value.code == code
    assert offline_run(tmp_path).exit_code == code


@pytest.mark.parametrize("log_model,wanted", [(False, 0), (True, 1), ("all", 4)])
def test_checkpoints_are_artifacts_by_option(home, tmp_path, log_model, wanted):
    wandb_run(tmp_path / "run", log_model=log_model)
    run = offline_run(tmp_path)
    models = [name for name in run.artifacts if name.startswith("checkpoint-")]
    assert models == [f"checkpoint-{run.about['run_id']}"] * wanted


def test_disabled_writes_nothing(home, tmp_path, capsys):
    wandb_run(tmp_path / "run", iterations=2, mode="disabled")
    assert read_metrics(tmp_path / "run/metrics.csv")[metrics.LOSS][0] == [1, 2]
    assert not list((tmp_path / "run").rglob("*.wandb"))
    assert "wandb sync" not in capsys.readouterr().out


def test_wandb_is_not_imported_where_no_logger_asks_for_it():
    code = (
        "import sys, tempfile, pathlib\n"
        "import gprl_lightning.tasks.train_policy\n"
        "from gprl_lightning.callbacks.rollout_table import RolloutTable\n"
        "from tests.worlds import tiny_loader, tiny_module, tiny_trainer\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "module = tiny_module(iterations=1)\n"
        "trainer = tiny_trainer(folder, callbacks=[RolloutTable(folder)])\n"
        "trainer.fit(module, tiny_loader(module, 1))\n"
        "assert (folder / 'rollouts').exists()\n"
        "assert 'wandb' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code]
    environment = clean_environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_jobs_of_a_multirun_have_a_run_each(tmp_path):
    settings = [f"{key}={value}" for key, value in tiny_settings(tmp_path).items()]
    environment = clean_environment(**private(tmp_path / "home"))
    done = train("-m", *settings, "name=jobs", "seed=0,1", environment=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = [run for _, run in offline_runs(tmp_path)]
    assert sorted(run.config["seed"] for run in runs) == [0, 1]
    for run in runs:
        folder = Path(run.config["logger"]["wandb"]["save_dir"])
        assert (folder / "summary.json").exists()
        assert run.about["display_name"] == folder.name
        assert run.about["job_type"] == "train_policy"
        assert run.about["run_group"] == folder.parent.name
        assert run.config["provenance"]["command"][1:] != []
        check_history(folder, run, 2)
    assert done.stdout.count("wandb sync") == 2


def test_a_missing_login_is_said_before_anything_loads(tmp_path):
    environment = clean_environment(**private(tmp_path), NETRC=str(tmp_path / "none"))
    folder = f"hydra.run.dir={tmp_path}"
    done = train("logger.wandb.mode=online", folder, environment=environment)
    assert done.returncode == 2
    assert "logger.wandb.mode=online" in done.stderr and "wandb login" in done.stderr
    assert "Traceback" not in done.stderr
