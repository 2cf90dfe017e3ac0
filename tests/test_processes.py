"""Forked processes are what ``python COMMAND`` is: environment, folder, output, exit code."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.processes import Forked, run_forked, run_world


def test_a_fork_is_the_command_in_its_environment_and_folder(tmp_path):
    code = (
        "import atexit, os, sys\natexit.register(print, 'bye')\n"
        "print(os.getcwd(), sys.argv, os.environ['WORD'], 'HOME' in os.environ)\n"
        "sys.stderr.write('err')\nsys.exit(3)"
    )
    done = run_forked(["-c", code, "a", "b c"], {"WORD": "é"}, 60, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stdout == f"{tmp_path} ['-c', 'a', 'b c'] é False\nbye\n"
    assert done.stderr == "err"


def test_it_begins_with_its_imports_done_and_not_with_ours():
    names = ["lightning", "gprl_lightning.tasks.train_preference_model", "pytest", "hypothesis"]
    code = f"import sys; print([name in sys.modules for name in {names}])"
    assert run_forked(["-c", code], os.environ, 60).stdout == "[True, True, False, False]\n"


def test_an_error_and_a_signal_are_exit_codes(tmp_path):
    failed = run_forked(["-c", "raise ValueError('why')"], os.environ, 60)
    assert failed.returncode == 1 and "ValueError: why" in failed.stderr
    log = tmp_path / "log"
    process = Forked(["-c", "import time; time.sleep(60)"], os.environ, log, log)
    assert process.poll() is None and process.pid != os.getpid()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM


def test_one_that_takes_too_long_is_ended():
    with pytest.raises(subprocess.TimeoutExpired):
        run_forked(["-c", "import time; time.sleep(60)"], os.environ, 0.5)


def test_processes_of_a_world_meet_and_one_that_fails_ends_them(tmp_path):
    code = (
        "import os, torch.distributed as d\nd.init_process_group('gloo')\n"
        "assert d.get_world_size() == 2\n"
        "if d.get_rank() == FAILING: raise ValueError('the second fails')\nd.barrier()\n"
    )
    run_world(["-c", code.replace("FAILING", "9")], 2, tmp_path)
    with pytest.raises(AssertionError, match="the second fails"):
        run_world(["-c", code.replace("FAILING", "1")], 2, tmp_path)
