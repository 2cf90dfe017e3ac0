"""``python -m gprl_lightning inspect``: what it shows, finds, and says where there is nothing."""

from __future__ import annotations

import os

import pytest

from gprl_lightning.callbacks.rollout_table import RolloutTable
from gprl_lightning.cli.inspect import main
from gprl_lightning.tracking.rollout_log import read_rows, rollout_file, write_rows
from tests.processes import run_forked
from tests.worlds import tiny_loader, tiny_module, tiny_trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    module = tiny_module(iterations=4)
    trainer = tiny_trainer(folder, every=100, callbacks=[RolloutTable(folder, every=2)])
    trainer.fit(module, tiny_loader(module, 4))
    return folder


@pytest.mark.parametrize("group", [0, 2])
def test_it_prints_the_group_and_agrees(run, group, capsys):
    assert main([str(run), "--iteration", "2", "--group", str(group)]) == 0
    shown = capsys.readouterr().out
    rows = [r for r in read_rows(rollout_file(run, 2)) if r["group"] == group]
    assert rows[0]["prompt"] in shown
    words = " ".join(shown.split())  # a long folder's name wraps the line
    assert f"iteration 2, group {group} of 3" in words and "1, 2, 4" in words
    for row in rows:
        assert f"{row['advantage']:+.4f}" in shown
        assert f"{row['group_score/1']:+.4f}" in shown
        assert f"{row['eigenvalue/2']:.4f}" in shown
    assert "agree to 1e-06" in shown


def test_the_newest_iteration_is_the_default(run, capsys):
    assert main([str(run)]) == 0
    assert "iteration 4, group 0" in capsys.readouterr().out


def test_an_advantage_that_does_not_follow_is_found_in_any_group(run, tmp_path, capsys):
    rows = read_rows(rollout_file(run, 4))
    rows[-1]["advantage"] += 1e-5
    write_rows(rollout_file(tmp_path, 4), rows)
    assert main([str(tmp_path), "--group", "0"]) == 1
    assert "DO NOT AGREE" in capsys.readouterr().out


def test_it_says_what_there_is(run, tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "callbacks=rollout_table" in capsys.readouterr().err
    assert main([str(run), "--iteration", "3"]) == 2
    assert "expected one of 1, 2, 4" in capsys.readouterr().err
    assert main([str(run), "--group", "3"]) == 2
    assert "expected 0 to 2" in capsys.readouterr().err


def test_as_a_command(run):
    done = run_forked(["-m", "gprl_lightning", "inspect", str(run)], os.environ, 300)
    assert done.returncode == 0, done.stderr
    assert "agree to 1e-06" in " ".join(done.stdout.split())


def cut(text: str, how: str) -> str:
    lines = text.splitlines(keepends=True)
    return {
        "empty": "",
        "header alone": lines[0],
        "in a row": text[: len(text) - len(lines[-1]) // 2],
        "a row short": "".join(lines[:-1]),
        "in the header": lines[0][: len(lines[0]) // 2],
        "NULs": text[:200] + "\0" * 500,
        "words for numbers": text.replace("0.", "zero."),
    }[how]


@pytest.mark.parametrize(
    "how",
    ["empty", "header alone", "in a row", "a row short", "in the header", "NULs",
     "words for numbers"],
)  # fmt: skip
def test_a_file_that_was_cut_is_one_message(how, run, tmp_path, capsys):
    file = rollout_file(tmp_path, 4)
    file.parent.mkdir()
    file.write_text(cut(rollout_file(run, 4).read_text(), how))
    assert main([str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "iteration_000004.csv" in message and "Traceback" not in message
    assert message.count("\n") == 1 and len(message) < 600
