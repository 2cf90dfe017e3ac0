"""`python -m gprl_lightning laboratory`: jobs of the grid become small files, or are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from gprl_lightning.cli.laboratory import main, registered
from gprl_lightning.errors import ConfigError
from gprl_lightning.study.baselines_page import BEGIN, END, with_measured
from gprl_lightning.study.laboratory_page import measured_part
from gprl_lightning.study.laboratory_plan import CHOSEN_ON, GOLD
from gprl_lightning.study.laboratory_records import Label, label_of, read
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.answer_log import write_answers
from gprl_lightning.tracking.grid_results import COST_FILE
from gprl_lightning.tracking.loggers import MetricsCSV
from tests.composing import ROOT, composed
from tests.processes import run_forked

GOLD_CURVE = [0.5, 0.6, 0.7, 0.8]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def job(grid: Path, arm: str, seed: int, *more: str, commit: str = COMMIT) -> Path:
    """A finished job of grid=laboratory, as far as is read of it."""
    overrides = [f"seed={seed}", f"ablation=laboratory/{arm}", *more]
    folder = grid / ",".join(overrides).replace("/", "_")
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text(yaml.safe_dump(overrides))
    (folder / ".hydra/cpu_seconds").write_text("90.0\n")
    OmegaConf.save(composed("grid=laboratory", *overrides), folder / "config.yaml", resolve=True)
    (folder / "summary.json").write_text(json.dumps({"seed": seed, "git_commit": commit}))
    log = MetricsCSV(folder)
    for place, gold in enumerate(GOLD_CURVE):
        values = {metrics.EVAL_WIN_RATE: gold, metrics.EVAL_KL: place**2}
        values |= {metrics.EVAL_WIN_RATE_EVEN: gold, metrics.EVAL_WIN_RATE_ODD: gold}
        values |= {metrics.EVAL_RESPONSE_LENGTH: 12.0, metrics.DRIFT_KL_COEF: 0.02 * (1 + place)}
        values |= {metrics.per_axis(metrics.AXIS_MULTIPLIER, axis): 0.5 for axis in "ab"}
        log.log_metrics(values, step=10 * place)
        common = {"prompt": "?", "answer": "!"}
        rows = [
            common | {"task": task, "verdicts": {"gold": won, "proxy": 0.0}}
            for task, won in (("praise", 1.0), ("praise", float(place > 2)), ("review", 0.5))
        ]
        write_answers(folder, 10 * place, rows)
    return folder


@pytest.fixture
def grid(tmp_path):
    return tmp_path / "grid_laboratory"


def test_a_finished_job_is_kept_once(grid, tmp_path, capsys):
    job(grid, "clean_full", 100)
    arguments = [str(grid), "--keep", str(tmp_path / "kept")]
    assert main(arguments) == 0
    (kept,) = read(tmp_path / "kept", registered)
    assert (kept.label, kept.commit, kept.cpu_minutes) == (Label("clean_full", 100), COMMIT, 1.5)
    assert kept.measures == {GOLD: pytest.approx(0.75)}  # the last two evaluations
    assert kept.by_task == {"praise": 0.75, "review": 0.5}
    assert (kept.multipliers, kept.kl_coef) == ([0.5, 0.5], 0.08)
    assert kept.settings["algorithm.kl_coef"] == 0.01
    assert kept.settings["sandbox.gold"] == "contextual"
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("clean_full_seed100.json") == 1


def test_a_job_of_another_configuration_is_refused(grid, tmp_path):
    folder = job(grid, "clean_full", 100)
    for key, value in (("algorithm.axis_std_floor", 0.5), ("optimizer.lr", 1e-3), ("seed", 3)):
        stored = OmegaConf.load(folder / "config.yaml")
        before = OmegaConf.select(stored, key)
        OmegaConf.update(stored, key, value)
        OmegaConf.save(stored, folder / "config.yaml")
        with pytest.raises(ConfigError, match=rf"registered configuration; found {key}={value}"):
            main([str(grid), "--keep", str(tmp_path / "kept")])
        OmegaConf.update(stored, key, before)
        OmegaConf.save(stored, folder / "config.yaml")


def test_changed_code_and_other_jobs_are_refused(grid, tmp_path):
    arguments = [str(grid), "--keep", str(tmp_path / "kept")]
    job(grid, "clean_scalar", 100, commit=COMMIT + "-dirty")
    with pytest.raises(ConfigError, match="expected a run of committed code"):
        main(arguments)
    other = tmp_path / "other"
    job(other, "clean_scalar", 7)
    with pytest.raises(ConfigError, match="expected a registered arm on a verdict seed"):
        main([str(other), "--keep", str(tmp_path / "kept")])


def test_a_tuned_arm_waits_for_its_beta(grid, tmp_path, monkeypatch):
    job(grid, "bt_best", 100)
    monkeypatch.delitem(CHOSEN_ON, "bt", raising=False)
    with pytest.raises(ConfigError, match="expected its β to be chosen"):
        main([str(grid), "--keep", str(tmp_path / "kept")])


def test_a_tuning_run_has_its_beta_and_the_page_is_written(grid, tmp_path):
    job(grid, "bt", 0, "algorithm.kl_coef=0.3")
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n{BEGIN}\n{END}\n")
    kept = tmp_path / "kept"
    assert main([str(grid), "--keep", str(kept), "--page", str(page)]) == 0
    assert (kept / "bt_beta0.3_seed0.json").exists()
    assert "1 runs, 1 of them for tuning" in page.read_text()
    assert main([str(kept), "--page", str(page)]) == 0


def test_the_projects_page_is_what_its_files_say():
    page = ROOT / "docs" / "laboratory.md"
    files = (ROOT / "docs" / "data" / "laboratory").glob("*.json")
    settings = {file.stem: json.loads(file.read_text())["settings"] for file in files}
    kept = read(ROOT / "docs" / "data" / "laboratory", lambda label: settings[str(label)])
    names = {file.stem.removeprefix("laboratory_") for file in page.parent.glob("laboratory_*.png")}
    part = measured_part(kept, {name: f"laboratory_{name}.png" for name in names})
    text = page.read_text("utf8")
    assert with_measured(text, part) == text


def test_the_grid_goes_on_where_a_part_of_it_stopped(tmp_path):
    """`laboratory_primary` is the first part of `laboratory`: one folder, no run twice."""
    toy = str(ROOT / "tests/integration/toy_app.py")

    def run(*words: str) -> str:
        done = run_forked([toy, *words, "paths.output=runs"], os.environ, 120, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "skipped" not in run("grid=laboratory_primary", "seed=100")
    arms = "ablation=laboratory/bt_best,laboratory/clean_scalar"
    assert "1 of 2 jobs are finished: skipped" in run("grid=laboratory", "seed=100", arms)
    jobs = sorted((tmp_path / "runs/laboratory/grid_laboratory").glob("*/summary.json"))
    assert [label_of(file.parent).arm for file in jobs] == ["bt_best", "clean_scalar", "full_best"]
    assert all(0 < float((f.parent / COST_FILE).read_text()) < 60 for f in jobs)
