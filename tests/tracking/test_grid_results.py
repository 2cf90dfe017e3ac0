"""The table over seeds, folder names, and what sets the arms of a grid apart."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from gprl_lightning.tracking import grid_results as grid
from gprl_lightning.tracking.grid_results import (
    Job,
    arm,
    conclude,
    folder_name,
    format_table,
    half_width,
    sibling_job,
    summarize,
    write_csv,
)


def test_half_width_of_the_interval():
    """Of .5, .6, .7: s = .1; Student's t with two degrees of freedom 4.3027; 4.3027 · .1 / √3."""
    assert half_width([0.5, 0.6, 0.7]) == pytest.approx(0.24841, abs=1e-4)
    assert math.isnan(half_width([0.5]))
    assert half_width([1.0] * 40 + [2.0] * 40) == pytest.approx(
        1.96 * 0.50315 / math.sqrt(80), 1e-3
    )


def test_summarize_pools_over_seeds(tmp_path):
    results = [("a", {"m": 1.0}), ("a", {"m": 3.0, "n": 5.0}), ("b", {"m": 4.0})]
    rows = summarize(results)
    assert list(rows) == ["a", "b"]
    assert rows["a"]["jobs"] == 2 and rows["a"]["m"] == 2.0
    # s = √2, t(1) = 12.706, n = 2: 12.706 · √2 / √2.
    assert rows["a"]["m ±"] == pytest.approx(12.706)
    assert rows["a"]["n"] == 5.0 and math.isnan(rows["a"]["n ±"])
    write_csv(rows, tmp_path / "grid.csv")
    with (tmp_path / "grid.csv").open(encoding="utf8") as file:
        table = list(csv.DictReader(file))
    assert [row["arm"] for row in table] == ["a", "b"]
    assert float(table[0]["m"]) == 2.0 and table[1]["n"] == ""


def test_the_console_shows_mean_and_interval():
    rows = summarize([("a", {"eval/win_rate": w}) for w in (0.5, 0.6, 0.7)])
    assert "0.6 ± 0.25" in format_table(rows)


def test_folder_names():
    assert folder_name("a=1,b.c=x") == "a=1,b.c=x"
    assert folder_name("") == "default"
    assert "/" not in folder_name("data.path=/some/file.jsonl,seed=1")
    long = [folder_name(f"key={'x' * 300},seed={seed}") for seed in (0, 1)]
    assert long[0] != long[1] and all(len(name) <= 180 for name in long)


def test_a_sibling_job_is_found_by_its_overrides(monkeypatch):
    """The folder that the sweeper gives to the job with another value of one override."""
    dirname = "ablation=grpo_bt_replayed,data.path=/a/b.jsonl,seed=3"
    hydra = OmegaConf.create(
        {"job": {"override_dirname": dirname}, "sweep": {"dir": "runs/study/grid"}}
    )
    monkeypatch.setattr(grid.HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(grid.HydraConfig, "get", lambda: hydra)
    expected = folder_name("ablation=none,data.path=/a/b.jsonl,seed=3")
    assert sibling_job("ablation", "none") == f"runs/study/grid/{expected}"


def _job(folder: Path, *overrides: str, final: dict | None = None, config: str = "x: 1\n") -> Job:
    job = Job(overrides, folder / ",".join(overrides), "x: 1\n")
    (job.folder / ".hydra").mkdir(parents=True)
    if final is not None:
        (job.folder / ".hydra" / "finished.yaml").write_text(config)
        (job.folder / "summary.json").write_text(json.dumps({"final": final}))
    return job


def test_an_arm_is_named_by_what_differs(tmp_path):
    jobs = [
        _job(tmp_path, "experiment=smoke", f"k={k}", f"seed={s}") for k in (1, 2) for s in (0, 1)
    ]
    assert [arm(job, jobs) for job in jobs] == ["k=1", "k=1", "k=2", "k=2"]
    assert arm(jobs[0], jobs, ()) == "k=1 seed=0"


def test_where_a_run_is_told_of_is_no_arm(tmp_path):
    """`logger=csv`, threads and folders differ, and the runs are still seeds of one arm."""
    jobs = [
        grid.Job(("ablation=none", "logger=csv", "seed=0"), tmp_path, ""),
        grid.Job(
            ("ablation=none", "logger.wandb.mode=online", "threads=2", "seed=1"), tmp_path, ""
        ),
        grid.Job(("ablation=two_axes", "+logger.wandb.notes=a", "seed=0"), tmp_path, ""),
    ]
    arms = [grid.arm(job, jobs) for job in jobs]
    assert arms == ["ablation=none", "ablation=none", "ablation=two_axes"]
    assert grid.is_setting("algorithm.kl_coef=0.1") and grid.is_setting(
        "algorithm/policy_loss=clip"
    )


def test_a_job_is_finished_only_with_this_configuration(tmp_path):
    assert _job(tmp_path, "a=1", final={}).finished
    assert not _job(tmp_path, "a=2").finished
    assert not _job(tmp_path, "a=3", final={}, config="x: 2\n").finished


def test_the_end_of_a_grid_lists_what_failed(tmp_path, capsys):
    from gprl_lightning.errors import GridFailed

    jobs = [
        _job(tmp_path, "a=1", final={"eval/win_rate": 0.5}),
        _job(tmp_path, "a=2"),
        _job(tmp_path, "a=3"),
    ]
    jobs[1].record(ValueError("no luck\nmore of it"))
    with pytest.raises(GridFailed) as failed:
        conclude(jobs, tmp_path)
    assert "2 of 3 jobs failed" in str(failed.value)
    assert "a=2: ValueError: no luck\n" in str(failed.value)
    assert "a=3: ended without a summary" in str(failed.value)
    assert "a=1" in capsys.readouterr().out
    assert (tmp_path / "grid.csv").exists()
