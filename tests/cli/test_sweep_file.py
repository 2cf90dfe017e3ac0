"""W&B's sweep files, run here: their points, what is refused, and a whole sweep of a toy."""

from __future__ import annotations

import math
from itertools import product

import pytest
import yaml

from gprl_lightning.cli.sweep_file import as_multirun, read_sweep
from gprl_lightning.config.validation import validate
from gprl_lightning.errors import ConfigError
from tests.cli.test_entry import TOY, run, summaries
from tests.composing import ROOT, composed

LOCAL = [f for f in sorted((ROOT / "sweeps").glob("*.yaml")) if f.stem != "lr_kl"]


def written(folder, name="s.yaml", **sweep):
    file = folder / name
    file.write_text(yaml.safe_dump(sweep))
    return file


def values_of(file, key: str) -> list[str]:
    points = read_sweep(file).points()
    return [o.partition("=")[2] for point in points for o in point if o.startswith(f"{key}=")]


@pytest.mark.parametrize("file", LOCAL, ids=lambda file: file.stem)
def test_every_file_of_the_project_runs_here_without_a_login(file):
    sweep, given = read_sweep(file), yaml.safe_load(file.read_text())
    points = sweep.points()
    if given["method"] == "grid":
        values = [p["values"] for k, p in given["parameters"].items() if k != "logger.wandb.mode"]
        assert len(points) == math.prod(map(len, values)) == len(set(points))
    else:
        assert len(points) == given["run_cap"]
    for point in (points[0], points[-1]):
        assert validate(composed(*point)).logger["wandb"]["mode"] == "offline"


def test_a_grid_is_the_product_and_what_the_command_line_sets_is_pinned(tmp_path):
    parameters = {
        "ablation": {"values": ["none", "two axes"]},
        "algorithm": {"parameters": {"kl_coef": {"values": [0.1, 1e-5]}}},
        "drift.enabled": {"value": True},
        "seed": {"values": [0, 1]},
    }
    sweep = read_sweep(written(tmp_path, method="grid", parameters=parameters))
    expected = [
        (f"ablation={a}", f"algorithm.kl_coef={b}", "drift.enabled=true", f"seed={s}")
        for a, b, s in product(("none", "'two axes'"), ("0.1", "1e-05"), (0, 1))
    ]
    assert sweep.points() == expected
    pinned = sweep.points({"seed", "ablation"})
    assert pinned == [(f"algorithm.kl_coef={b}", "drift.enabled=true") for b in ("0.1", "1e-05")]


@pytest.mark.parametrize(
    ("given", "median", "low", "high"),
    [
        # Of 4,000 draws; the median of a distribution by its own formula.
        ({"distribution": "uniform", "min": 1, "max": 3}, 2.0, 1, 3),
        ({"min": 0.5, "max": 1.5}, 1.0, 0.5, 1.5),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, 1e-3, 1e-4, 1e-2),
        ({"distribution": "log_uniform", "min": -2, "max": 0}, math.exp(-1), math.exp(-2), 1),
        ({"distribution": "normal", "mu": 5, "sigma": 0.1}, 5.0, 4, 6),
        ({"distribution": "log_normal", "mu": 1, "sigma": 0.1}, math.e, 1, 6),
    ],
)
def test_ranges_are_drawn_as_they_are_named(tmp_path, given, median, low, high):
    file = written(tmp_path, method="random", run_cap=4000, parameters={"x": given})
    drawn = sorted(map(float, values_of(file, "x")))
    assert low <= drawn[0] and drawn[-1] <= high
    assert drawn[len(drawn) // 2] == pytest.approx(median, rel=0.08)
    assert values_of(file, "x") == values_of(file, "x")  # the same sweep again


def test_whole_and_stepped_numbers_and_weighted_values(tmp_path):
    parameters = {"n": {"min": 2, "max": 5}, "seed": {"min": 0, "max": 10**9}}
    file = written(tmp_path, method="random", run_cap=200, parameters=parameters)
    assert set(values_of(file, "n")) == {"2", "3", "4", "5"}
    stepped = {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25}
    weighted = {"values": ["a", "b"], "probabilities": [0.0, 1.0]}
    parameters = {"q": stepped, "w": weighted, "seed": {"min": 0, "max": 10**9}}
    file = written(tmp_path, method="random", run_cap=200, parameters=parameters)
    assert set(values_of(file, "q")) == {"0.0", "0.25", "0.5", "0.75", "1.0"}
    assert set(values_of(file, "w")) == {"b"}


RANGE = {"x": {"min": 0.0, "max": 1.0}}


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        ({"method": "bayes", "parameters": RANGE}, "wandb agent"),
        ({"method": "tpe", "parameters": RANGE}, "expected method: grid or random"),
        ({"method": "random", "parameters": RANGE}, "run_cap: 20"),
        ({"method": "grid", "parameters": RANGE}, "parameters.x: expected value: or values:"),
        (
            {"method": "random", "run_cap": 2, "parameters": {"x": {"distribution": "beta"}}},
            "parameters.x.distribution: expected one of uniform",
        ),
        (
            {"method": "random", "run_cap": 2, "parameters": {"x": {"min": "a", "max": 1}}},
            "expected numbers in min: and max:",
        ),
        ({"method": "grid"}, "expected `method:` and `parameters:`"),
    ],
)
def test_what_cannot_run_here_is_refused_by_name(tmp_path, sweep, told):
    file = written(tmp_path, **sweep)
    with pytest.raises(ConfigError) as refused:
        read_sweep(file)
    assert told in str(refused.value) and f"sweep={file}" in str(refused.value)


def test_two_sweeps_of_one_name_have_a_folder_each(tmp_path):
    def folder(values):
        given = {"method": "grid", "name": "drift", "parameters": {"seed": {"values": values}}}
        words = as_multirun([f"sweep={written(tmp_path, **given)}"])
        return next(word for word in words if word.startswith("hydra.sweep.dir="))

    assert folder([0, 1]) != folder([0, 2]) and folder([0, 1]) == folder([0, 1])
    assert as_multirun(["seed=1"]) == ["seed=1"]


def test_a_sweep_runs_and_ends_with_the_table_and_the_best(tmp_path):
    parameters = {
        "logger.wandb.mode": {"value": "online"},
        "algorithm.weighting": {"values": ["eigenvalue", "uniform"]},
        "seed": {"values": [1, 2]},
    }
    metric = {"name": "eval/win_rate", "goal": "maximize"}
    written(tmp_path, "my sweep.yaml", method="grid", metric=metric, parameters=parameters)
    done = run(str(TOY), "sweep=my sweep.yaml", "iterations=7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs/sandbox").glob("sweep_my_sweep_*")
    weighting = "algorithm.weighting"
    assert summaries(folder).keys() == {
        f"{weighting}={w},iterations=7,seed={s}" for w in ("eigenvalue", "uniform") for s in (1, 2)
    }
    assert "0.65 ± 0.64" in done.stdout
    assert f"best eval/win_rate: 0.65, by {weighting}=eigenvalue" in done.stdout
    again = run(str(TOY), "sweep=my sweep.yaml", "iterations=7", cwd=tmp_path)
    assert "4 of 4 jobs are finished: skipped" in again.stdout
    refused = run(str(TOY), "sweep=none.yaml", cwd=tmp_path)
    assert refused.returncode == 2 and refused.stderr.startswith("sweep=none.yaml: expected a ")


def test_two_multiruns_of_one_name_have_a_folder_each_and_more_seeds_join(tmp_path):
    folders = []
    for words in (("seed=0",), ("seed=0,1",), ("seed=0", "rollout.group_size=4")):
        done = run(str(TOY), "-m", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        folders.append(sorted(f.name for f in (tmp_path / "runs/sandbox").iterdir()))
    assert [len(found) for found in folders] == [1, 1, 2]
    assert len(summaries(tmp_path / "runs/sandbox" / folders[0][0])) == 2
