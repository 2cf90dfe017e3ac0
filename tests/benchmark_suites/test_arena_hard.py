"""Arena-Hard: labels of a judge with known taste, in both orders, and the authors' scores."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gprl_lightning.benchmarks.arena_hard import ArenaHard
from gprl_lightning.benchmarks.arena_hard_labels import label_of
from gprl_lightning.benchmarks.protocol import Contestant
from tests.benchmark_suites.folders import arena_folder, arena_pair
from tests.benchmark_suites.judged import figures, judged
from tests.chat_server import Reply

V2 = {"hard_prompt": "o3-mini-2025-01-31", "creative_writing": "gemini-2.0-flash-001"}
V01 = {"arena-hard-v0.1": "gpt-4-0314"}
LENGTHS = (60, 5, 30, 41, 20, 1)  # the baselines' are 10, 20, …, 60


def setting(tmp_path, version):
    baselines = V2 if version == "v2.0" else V01
    benchmark = ArenaHard(version, "gpt-4.1", 16000)
    questions = benchmark.load(arena_folder(tmp_path / "data", version, baselines))
    answers = {q.uid: ("m" * LENGTHS[int(q.uid[-1])],) for q in questions}
    return benchmark, questions, Contestant("policy", answers)


def longer(body, number):
    """More than twice as long is significantly better."""
    first, second = arena_pair(body)
    for a, b, label in ((first, second, "A{}B"), (second, first, "B{}A")):
        if len(a) > len(b):
            return Reply(f"So: [[{label.format('>>' if len(a) > 2 * len(b) else '>')}]]")
    return Reply("My final verdict is tie: [[A=B]]")


# Lengths 60:10 wins by far, 5:20 loses by far, 30:30 ties, 41:40 wins, 20:50 loses by far,
# 1:60 loses by far. Each label twice, once in each order.
WON, PLAYED = 2 * (3 + 0.5 + 1), 2 * (3 + 3 + 1 + 1 + 3 + 3)


@pytest.mark.parametrize("version", ["v0.1", "v2.0"])
def test_the_win_rate_is_that_of_the_rule(version, tmp_path):
    report, _, server = judged(*setting(tmp_path, version), longer, tmp_path)
    found, exact = figures(report), 100 * WON / PLAYED
    if version == "v0.1":
        assert found["win_rate"] == pytest.approx(exact)
        assert report.figures[0].interval == "95 %, bootstrap"
    else:  # the mean of the bootstrap
        assert found["win_rate"] == pytest.approx(exact, abs=5)
        assert found["win_rate_creative"] == pytest.approx(exact, abs=5)
        assert report.figures[0].interval == "90 %, bootstrap"
    assert len(server.requests) == (24 if version == "v2.0" else 12)
    assert report.position.first_wins == pytest.approx(0.5)
    assert "0 of" in report.notes[-1] and "No style control" in report.notes[0]


def test_the_judge_is_asked_as_published(tmp_path):
    benchmark, questions, contestant = setting(tmp_path, "v2.0")
    first, second = benchmark.comparisons(questions, contestant)[:2]
    assert (first.part, second.part) == ("baseline_first", "model_first")
    system, user = first.request.messages
    assert "Begin your evaluation by generating your own answer" in system["content"]
    assert user["content"] == (
        "<|User Prompt|>\nExplain rain.\n\n<|The Start of Assistant A's Answer|>\n" + "b" * 10 +
        "\n<|The End of Assistant A's Answer|>\n\n<|The Start of Assistant B's Answer|>\n" +
        "m" * 60 + "\n<|The End of Assistant B's Answer|>"
    )  # fmt: skip
    assert (first.request.temperature, first.request.max_tokens) == (0.0, 16000)
    creative = benchmark.comparisons(questions, contestant)[-1]
    assert "generating your own answer" not in creative.request.messages[0]["content"]


@pytest.mark.parametrize(
    "text,label",
    [
        ("[[A>>B]]", "A>>B"),
        ("first [[A>B]] then my final verdict is [[b>a]]", "B>A"),
        ("single [A=B]", "A=B"),
        ("[B>A] but [[A>B]]", "A>B"),
        ("neither", None),
        ("[[A>>>B]]", None),
        (None, None),
    ],
)
def test_the_last_label_counts(text, label):
    assert label_of(text) == label


def test_a_judge_who_likes_the_first_place_is_seen(tmp_path):
    report, _, _ = judged(*setting(tmp_path, "v0.1"), lambda *_: Reply("[[A>B]]"), tmp_path)
    assert figures(report)["win_rate"] == pytest.approx(50)
    assert report.position.first_wins == 1 and report.position.exceeds(0.1)
    assert "6 of 6 questions have another winner in the other order." in report.notes


def test_a_question_with_one_missing_game_is_left_out(tmp_path):
    def rule(body, number):
        first, second = arena_pair(body)
        if len(second) == 60 and len(first) == 10:
            return Reply("I cannot say.")
        if len(first) == 1:
            return Reply(None)
        return longer(body, number)

    report, _, _ = judged(*setting(tmp_path, "v0.1"), rule, tmp_path)
    assert report.missing == {"no verdict in the text": 1, "refused": 1}
    won, played = 2 * (0.5 + 1), 2 * (3 + 1 + 1 + 3)
    assert figures(report)["win_rate"] == pytest.approx(100 * won / played)


def test_the_files_are_the_authors_and_read_back(tmp_path):
    benchmark, questions, contestant = setting(tmp_path, "v2.0")
    file = benchmark.write_answers(questions, contestant, tmp_path)
    assert file.relative_to(tmp_path).as_posix() == "data/arena-hard-v2.0/model_answer/policy.jsonl"
    assert benchmark.read_answers(file, questions) == contestant
    judged(benchmark, questions, contestant, longer, tmp_path)
    place = tmp_path / "data/arena-hard-v2.0/model_judgment/rule/policy.jsonl"
    rows = [json.loads(line) for line in place.read_text().splitlines()]
    assert len(rows) == 12 and rows[0]["games"][0]["score"] == "B>>A"
    assert rows[0]["games"][1]["score"] == "A>>B" and rows[0]["baseline"] == V2["hard_prompt"]


# Scores


def test_others_judgements_are_read_from_the_authors_layout(tmp_path, monkeypatch):
    """Another model's files, as this package writes them, change the style-controlled rate."""
    words = (lambda text: len(text), None)
    monkeypatch.setattr("gprl_lightning.benchmarks.arena_hard.token_counter", lambda: words)
    benchmark, questions, contestant = setting(tmp_path, "v0.1")
    # The baseline's answers stand in the folder as its own file; the other model's are written.
    folder = arena_folder(tmp_path / "all", "v0.1", V01)
    rival = Contestant(
        "rival", {q.uid: ("# x\n" + "r" * (70 - 9 * i),) for i, q in enumerate(questions)}
    )
    benchmark.write_answers(questions, rival, folder)
    judged(benchmark, questions, rival, longer, folder)
    alone, _, _ = judged(benchmark, questions, contestant, longer, tmp_path / "alone")
    together, _, _ = judged(
        replace(benchmark, others=str(folder)), questions, contestant, longer, tmp_path / "both"
    )
    name = "style_controlled_win_rate"
    assert figures(alone)[name] != pytest.approx(figures(together)[name], abs=1e-6)
    assert figures(alone)["win_rate"] == figures(together)["win_rate"]
    assert any("fitted to this model's battles alone" in n for n in alone.notes)
    assert not any("alone" in n for n in together.notes)
