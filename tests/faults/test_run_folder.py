"""One run at a time in one folder, which must be one that a run can write to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gprl_lightning.cli.entry import of_the_disk
from gprl_lightning.errors import ConfigError
from gprl_lightning.runtime.run_lock import FILES, FOLDERS, is_first_process, only_run_in

HOLD = """
import sys, time
from pathlib import Path
from gprl_lightning.runtime.run_lock import only_run_in
with only_run_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``run``."""
    (tmp_path / "run").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def single(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("through", ["run", "link", "link/../run"])
def test_a_folder_with_a_run_in_it_is_refused_with_its_name(holder, tmp_path, through):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    before = (tmp_path / "run" / ".lock").read_bytes()
    with (
        pytest.raises(ConfigError, match=r"process \d+ on .*, since") as refused,
        only_run_in(tmp_path / through),
    ):
        pytest.fail("two runs")
    assert "hydra.run.dir" in str(refused.value)
    assert (tmp_path / "run" / ".lock").read_bytes() == before


def test_the_lock_of_a_run_that_was_killed_is_none(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"] == holder.pid
    with only_run_in(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / "run" / ".lock").read_bytes() == b""


def test_the_lock_ends_with_the_run(tmp_path):
    for _ in range(2):
        with only_run_in(tmp_path):
            pass
    with pytest.raises(KeyError), only_run_in(tmp_path):
        raise KeyError
    with only_run_in(tmp_path):
        pass


def test_the_other_processes_of_a_run_do_not_ask(holder, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with only_run_in(tmp_path / "run"):
        pass
    assert is_first_process({"LOCAL_RANK": "0", "RANK": ""})
    assert not is_first_process({"LOCAL_RANK": "0", "NODE_RANK": "1"})


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("what", ["file", "dangling link"])
def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path, name, what):
    place = tmp_path / name
    place.write_text("mine") if what == "file" else place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=f"expected {name} to be a folder"), only_run_in(tmp_path):
        pytest.fail("it began")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with (
        pytest.raises(ConfigError, match=f"expected {name} to be a file; found|to be a file"),
        only_run_in(tmp_path),
    ):
        pytest.fail("it began")


def test_a_place_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match="expected a folder that can be written to"),
        only_run_in(tmp_path / "file" / "run"),
    ):
        pytest.fail("it began")


def in_python(script: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


# What the disk says, in one message --------------------------------------------------------------


def test_what_a_disk_says_is_one_message_with_the_key():
    full = OSError(28, "No space left on device", "/data/x")
    message, code = of_the_disk(full)
    assert code == 3 and "OutOfDisk" in message and "/data/x" in message
    assert "paths.output" in message
    message, code = of_the_disk(PermissionError(13, "Permission denied", "/data/x"))
    assert code == 2 and "Make it writable" in message and "/data/x" in message
    # safetensors passes on what the system said, in words.
    wrapped = RuntimeError("Error while serializing: I/O error: No space left (os error 28)")
    assert of_the_disk(wrapped)[1] == 3
    outer = RuntimeError("while saving")
    outer.__cause__ = full
    assert of_the_disk(outer)[1] == 3
    assert of_the_disk(RuntimeError("shapes do not match")) == ("", 0)
    assert of_the_disk(FileNotFoundError(2, "no such file")) == ("", 0)


def test_the_message_stands_instead_of_a_traceback(tmp_path):
    script = tmp_path / "app.py"
    script.write_text(
        "from gprl_lightning.cli import entry\n"
        "def main():\n"
        "    with open('/dev/full', 'w') as f: f.write('x')\n"
        "entry.run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 3, done.stderr
    assert "OutOfDisk" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_before_the_first_iteration_is_130(tmp_path):
    script = tmp_path / "app.py"
    script.write_text(
        "import os, signal\nfrom gprl_lightning.cli import entry\n"
        "entry.run(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 130
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


# The console --------------------------------------------------------------------------------------

TALKS = """
import sys
from gprl_lightning.cli import entry
from gprl_lightning.tracking.report import print_table
def main():
    for _ in range(2000):
        print("0.5 → 0.6", "\\ud800", flush=True)
    print_table([("KL", "0.1 → 0.2")], "é")
    sys.stderr.write("é →\\n")
    open(sys.argv[1], "w").write("finished")
entry.run(main)
"""


@pytest.mark.parametrize(
    "how", [">/dev/full", ">&-", ">&- 2>&-", "| head -1", "| true", "2>&1 | cat"]
)
def test_a_console_that_fails_ends_no_run(tmp_path, how):
    script, out = tmp_path / "app.py", tmp_path / "out"
    script.write_text(TALKS)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    command = f"set -o pipefail; {sys.executable} {script} {out} {how}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert out.read_text() == "finished"
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_script_s_files_do_not_get_the_console_s_numbers(tmp_path):
    script = tmp_path / "app.py"
    script.write_text(
        "import os, sys\nfrom gprl_lightning.cli import entry\n"
        "entry.run(lambda: open(sys.argv[1], 'w').write(str(os.open('/dev/null', 0))))\n"
    )
    command = f"exec {sys.executable} {script} {tmp_path / 'out'} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command]).returncode == 0
    assert int(Path(tmp_path / "out").read_text()) > 2
