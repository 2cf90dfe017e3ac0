"""The wheel: what is in it, and that it trains by itself in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.composing import CONF, ROOT

COMMANDS = ("gprl-train", "gprl-report", "gprl-inspect")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What a command prints; it knows nothing of the checkout."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HYDRA_FULL_ERROR")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The commands of an environment with the wheel, and with the packages of this one behind it:
    a `.pth` file in it adds their folder, but not the checkout that is installed there."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    place = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    Path(place, "behind.pth").write_text(sysconfig.get_path("purelib"))
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel)
    return folder / "bin"


def test_the_wheel_holds_the_configuration_the_assets_and_the_commands(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entries,) = (name for name in names if name.endswith("entry_points.txt"))
        scripts = archive.read(entries).decode()
    conf = {f"gprl_lightning/conf/{f.relative_to(CONF)}" for f in CONF.rglob("*") if f.is_file()}
    assert "gprl_lightning/conf/config.yaml" in conf
    assert conf == {name for name in names if name.startswith("gprl_lightning/conf/")}
    package = ROOT / "gprl_lightning"
    kept = {"gprl_lightning/py.typed", "hydra_plugins/gprl_sweeper.py"}
    for folder in ("sandbox/assets", "benchmarks/prompts"):
        kept |= {str(f.relative_to(ROOT)) for f in (package / folder).rglob("*") if f.is_file()}
    assert any(name.endswith("model.safetensors") for name in kept)
    assert kept <= names
    cited = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {wheel.name.split('-')[1]}\n" in cited
    roots = {name.split("/")[0].split("-")[0] for name in names}
    assert roots == {"gprl_lightning", "hydra_plugins"}
    assert all(f"{command} = " in scripts for command in COMMANDS)


def test_an_installed_command_composes_in_an_empty_folder_and_takes_ones_own(installed, tmp_path):
    own = tmp_path / "my_conf" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nname: mine\niterations: 7\n")
    arguments = ("--config-dir", "my_conf", "experiment=mine", "--cfg", "job")
    shown = run(installed / "gprl-train", *arguments, cwd=tmp_path)
    assert "iterations: 7" in shown and "num_axes: 3" in shown
    asked = run(installed / "gprl-train", "--help", cwd=tmp_path)
    assert "gprl-train experiment=" in asked and "train.py" not in asked
    # Its own package, and its own configuration: the checkout is not on its path.
    shown = run(installed / "gprl-train", "--info", "searchpath", cwd=tmp_path)
    assert str(installed.parent / "lib") in shown and str(CONF) not in shown


@pytest.mark.slow
def test_an_installed_package_trains_reports_and_inspects_in_an_empty_folder(installed, tmp_path):
    told = run(installed / "gprl-train", "experiment=smoke", "hydra.run.dir=run", cwd=tmp_path)
    assert "held-out win rate" in told
    folder = tmp_path / "run"
    assert {"policy", "metrics.csv", "summary.json"} <= {file.name for file in folder.iterdir()}
    assert "held-out win rate" in run(installed / "gprl-report", "run", cwd=tmp_path)
    assert "agree to" in run(installed / "gprl-inspect", "run", cwd=tmp_path)
