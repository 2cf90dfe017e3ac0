"""Answers are kept as they are made, by what made them."""

from __future__ import annotations

from gprl_lightning.benchmarks.journal import Journal

BY = {"policy": 7, "seed": 0}


def filled(tmp_path, made_by=BY):
    journal = Journal(tmp_path / "run/answers.jsonl", made_by)
    journal.add(0, {"a": "one\ntwo", "b": "é"})
    journal.add(1, {"a": "then"})
    return journal


def test_what_was_kept_is_there_again(tmp_path):
    file = filled(tmp_path).file
    again = Journal(file, BY)
    assert again.batch(0, ["b", "a"]) == {"b": "é", "a": "one\ntwo"}
    assert again.batch(1, ["a"]) == {"a": "then"}
    assert again.batch(1, ["a", "b"]) is None, "a batch is there whole or not at all"


def test_answers_that_something_else_made_are_dropped(tmp_path):
    file = filled(tmp_path).file
    assert Journal(file, BY | {"seed": 1}).batch(0, ["a"]) is None
    assert Journal(file, BY).batch(0, ["a"]) is None, "the file is the other's now"


def test_a_line_that_was_cut_off_is_dropped_and_the_next_one_is_whole(tmp_path):
    file = filled(tmp_path).file
    text = file.read_text(encoding="utf8")
    file.write_text(text[:-5], encoding="utf8")
    journal = Journal(file, BY)
    assert journal.batch(1, ["a"]) is None and journal.batch(0, ["a"]) is not None
    journal.add(1, {"a": "then"})
    assert Journal(file, BY).batch(1, ["a"]) == {"a": "then"}
