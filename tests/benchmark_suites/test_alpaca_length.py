"""The length-controlled win rate comes from the authors' package, or there is a reason why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gprl_lightning.benchmarks.alpaca_eval import AlpacaEval2
from gprl_lightning.benchmarks.alpaca_length import TABLE_SHA256, length_controlled_win_rate
from gprl_lightning.benchmarks.protocol import Contestant
from gprl_lightning.benchmarks.questions import fingerprint
from tests.benchmark_suites.folders import alpaca_folder, tokens
from tests.benchmark_suites.judged import figures, judged

SAYS = f"echo '[51.25, \"{TABLE_SHA256}\"]'"


def interpreter(folder: Path, body: str) -> str:
    """Return a program that stands for a Python with (or without) the package."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return str(file)


@pytest.fixture
def annotations(tmp_path):
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps([]))
    return file


def test_what_the_package_says_is_taken(annotations, tmp_path):
    python = interpreter(tmp_path, f'echo "a line of the package"; {SAYS}')
    assert length_controlled_win_rate(annotations, True, python) == (51.25, None)


def test_another_table_than_the_published_one_gives_no_win_rate(annotations, tmp_path):
    python = interpreter(tmp_path, "echo '[51.25, \"abc\"]'")
    found, why_not = length_controlled_win_rate(annotations, True, python)
    assert found is None and why_not is not None and "is not the published one (abc)" in why_not


REASONS = [
    (
        "echo \"ModuleNotFoundError: No module named 'alpaca_eval'\" >&2; exit 1",
        "it needs the alpaca_",
    ),
    ("echo 'LocalEntryNotFoundError: df_gamed.csv' >&2; exit 1", "says: LocalEntryNotFoundError"),
    ("exit 1", "says: no reason given"),
    ("echo nothing of a number", "says: nothing of a number"),
    ("echo 51.25", "says: 51.25"),
    ("true", "says: no reason given"),
]


@pytest.mark.parametrize("body,reason", REASONS)
def test_a_failure_is_a_sentence(body, reason, annotations, tmp_path):
    found, why_not = length_controlled_win_rate(annotations, True, interpreter(tmp_path, body))
    assert found is None and why_not.startswith("No length-controlled win rate: ")
    assert reason in why_not


def test_an_interpreter_that_is_not_there_is_a_sentence(annotations):
    found, why_not = length_controlled_win_rate(annotations, True, "/no/such/python")
    assert found is None and "FileNotFoundError" in why_not


def test_a_part_of_the_instructions_is_never_sent(annotations, tmp_path):
    python = interpreter(tmp_path, SAYS)
    assert length_controlled_win_rate(annotations, False, python)[0] is None


def test_it_is_the_headline_if_there_is_one(tmp_path):
    """On the instructions that the benchmark takes for the published ones, and on no others."""
    questions = AlpacaEval2().load(alpaca_folder(tmp_path / "data"))
    python = interpreter(tmp_path, SAYS)
    benchmark = AlpacaEval2(python, published_fingerprint=fingerprint(questions))
    contestant = Contestant("policy", {q.uid: ("m",) for q in questions})
    report, _, _ = judged(benchmark, questions, contestant, lambda *_: tokens(0.6), tmp_path)
    assert report.figures[0].name == "length_controlled_win_rate"
    assert figures(report)["length_controlled_win_rate"] == 51.25 and not report.notes
    part, _, _ = judged(benchmark, questions[:3], contestant, lambda *_: tokens(0.6), tmp_path)
    assert part.figures[0].name == "win_rate"
