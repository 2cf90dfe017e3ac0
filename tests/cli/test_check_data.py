"""``python -m gprl_lightning check-data`` says what a file is read as, and what of it is lost."""

from __future__ import annotations

import json
import sys

import pytest

from gprl_lightning.__main__ import main as commands
from gprl_lightning.cli.check_data import main
from gprl_lightning.models.policy import save_policy
from tests.tiny import tiny_policy

ROW = {"prompt": "say a", "chosen": "abc", "rejected": "x" * 90, "label": 0.5}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join([json.dumps(ROW)] * 3))
    return str(path)


def test_pairs(file, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gprl_lightning", "check-data", file])
    assert commands() == 0
    shown = capsys.readouterr().out
    assert "3 pairs of 3 rows (3 texts)" in shown and "data.label_key" in shown
    assert "user: say a" in shown and "assistant: abc" in shown


def test_named_labels(file, capsys):
    assert main([file, "--label-key", "label"]) == 0
    assert "label 0.5" in capsys.readouterr().out


def test_what_would_be_cut(file, tmp_path, capsys):
    save_policy(tiny_policy(), tmp_path / "model")
    assert main([file, "--model", str(tmp_path / "model"), "--max-tokens", "64"]) == 0
    assert "3 of 6 texts (50.0%)" in capsys.readouterr().out


def test_prompts(file, capsys):
    assert main([file, "--prompts"]) == 0
    assert "3 prompts" in capsys.readouterr().out


def test_a_file_that_cannot_be_read(tmp_path, capsys):
    assert main([str(tmp_path / "none.jsonl")]) == 2
    assert "there is no such file" in capsys.readouterr().err
