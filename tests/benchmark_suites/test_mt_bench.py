"""MT-Bench: known grades give the score that they imply; solutions go where they belong."""

from __future__ import annotations

import json
import re

import pytest

from gprl_lightning.benchmarks.mt_bench import MTBench, rating
from gprl_lightning.benchmarks.protocol import Contestant
from tests.benchmark_suites.folders import mt_folder
from tests.benchmark_suites.judged import figures, judged
from tests.chat_server import Reply


@pytest.fixture
def setting(tmp_path):
    benchmark = MTBench()
    questions = benchmark.load(mt_folder(tmp_path / "data"))
    answers = {q.uid: (f"a{q.uid}", f"b{q.uid}") for q in questions}
    return benchmark, questions, Contestant("policy", answers)


def by_number(body, number):
    """First turns get 1, 2, …, 6 by their question, second turns 10."""
    text = body["messages"][-1]["content"]
    if "[Q2]" in text:
        return Reply("Good. Rating: [[10]]")
    return Reply(f"Rating: [[{int(re.search(r'a(8[0-9])', text)[1]) - 80}]]")


def test_the_score_is_the_mean_of_all_grades(setting, tmp_path):
    report, _, server = judged(*setting, by_number, tmp_path)
    found = figures(report)
    assert found["score"] == pytest.approx((1 + 2 + 3 + 4 + 5 + 6 + 60) / 12)
    assert found["score_turn_1"] == pytest.approx(3.5) and found["score_turn_2"] == 10
    assert found["score_math"] == pytest.approx((2 + 10) / 2)
    low, high = report.figures[0].low, report.figures[0].high
    assert (1 + 10) / 2 <= low < found["score"] < high <= (6 + 10) / 2
    assert len(server.requests) == 12 and report.position is None


def test_the_judge_is_asked_as_published(setting):
    """A system message and a filled template; solutions for maths and coding, not for writing."""
    benchmark, questions, contestant = setting
    asked = {(c.uid, c.part): c.request for c in benchmark.comparisons(questions, contestant)}
    writing, maths = asked["81", "turn_1"], asked["82", "turn_1"]
    assert writing.messages[0] == {"role": "system", "content": "You grade. single-v1"}
    assert writing.messages[1]["content"] == "[Q]First, rain?[A]a81"
    assert maths.messages[1]["content"] == "[Q]First, bread?[A]a82[R]one bread"
    second = asked["84", "turn_2"].messages
    assert second[0]["content"] == "You grade twice. single-math-v1"
    assert second[1]["content"] == (
        "[Q1]First, moss?[A1]a84[Q2]And then moss?[A2]b84[R1]one moss[R2]two moss"
    )
    assert (writing.temperature, writing.max_tokens) == (0.0, 2048)


def test_answers_are_as_warm_as_published(setting):
    benchmark, questions, _ = setting
    heats = {q.category: benchmark.temperature(q) for q in questions}
    assert heats == {
        "writing": 0.7, "math": 0, "stem": 0.1, "coding": 0, "roleplay": 0.7, "extraction": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text,grade",
    [
        ("Rating: [[7]]", 7),
        ("[[8.5]] rather than [[2]]", 8.5),
        ("only [6] here", 6),
        ("[3] and then [[9]]", 9),
        ("ten out of ten", None),
        (None, None),
    ],
)
def test_the_rating_of_a_judgement(text, grade):
    assert rating(text) == grade


def test_missing_grades_are_counted_and_left_out(setting, tmp_path):
    def rule(body, number):
        text = body["messages"][-1]["content"]
        if "a81" in text:
            return Reply("I would rather not.")
        if "a82" in text:
            return Reply(status=500, body=b"")
        return by_number(body, number)

    report, _, _ = judged(*setting, rule, tmp_path, retries=1)
    assert report.missing == {"no verdict in the text": 2, "server": 2}
    assert figures(report)["score"] == pytest.approx((3 + 4 + 5 + 6 + 40) / 8)


def test_without_a_single_grade_there_is_no_score(setting, tmp_path):
    report, _, _ = judged(*setting, lambda *_: Reply("?"), tmp_path)
    assert report.figures == () and report.missing == {"no verdict in the text": 12}


def test_the_files_are_the_authors_and_read_back(setting, tmp_path):
    benchmark, questions, contestant = setting
    file = benchmark.write_answers(questions, contestant, tmp_path)
    assert file.relative_to(tmp_path).as_posix() == "data/mt_bench/model_answer/policy.jsonl"
    assert benchmark.read_answers(file, questions) == contestant
    judged(*setting, by_number, tmp_path)
    place = tmp_path / "data/mt_bench/model_judgment/rule_single.jsonl"
    rows = [json.loads(line) for line in place.read_text().splitlines()]
    assert len(rows) == 12 and {r["turn"] for r in rows} == {1, 2}
    assert sorted(rows[0]) == [
        "judge", "judgment", "model", "question_id", "score", "tstamp", "turn", "user_prompt",
    ]  # fmt: skip
    assert rows[1]["judge"] == ["rule", "single-math-v1"] and rows[1]["score"] == 2
