"""WildBench: known grades and choices give the scores that they imply."""

from __future__ import annotations

import json

import pytest

from gprl_lightning.benchmarks import wildbench_scores as scores
from gprl_lightning.benchmarks.protocol import Contestant
from gprl_lightning.benchmarks.wildbench import REFERENCES, WildBench
from gprl_lightning.benchmarks.wildbench_prompts import kept, shown
from gprl_lightning.benchmarks.wildbench_verdicts import parsed
from tests.benchmark_suites.folders import WILD_TAGS, as_json, wild_folder, wild_pair
from tests.benchmark_suites.judged import figures, judged
from tests.chat_server import Reply

# Of the model's answers; those of the references are 100, 200, …, 600.
LENGTHS = (900, 50, 300, 450, 600, 0)


def setting(tmp_path, **options):
    benchmark = WildBench(**options)
    questions = benchmark.load(wild_folder(tmp_path / "data", REFERENCES))
    answers = {q.uid: ("m" * n,) for q, n in zip(questions, LENGTHS, strict=True)}
    return benchmark, questions, Contestant("policy", answers)


def longer(body, number):
    """Longer is slightly better, more than twice as long is much better; grades are 1 to 5."""
    text = body["messages"][-1]["content"]
    if "## Response A" not in text:
        topics = ("rain", "bread", "chess", "moss", "tides", "maps")
        return as_json(score=str(1 + next(i for i, t in enumerate(topics) if t in text)))
    first, second = wild_pair(body)
    if len(first) == len(second):
        return as_json(choice="A=B")
    mark = "++" if max(len(first), len(second)) > 2 * min(len(first), len(second)) else "+"
    return as_json(choice=("A" if len(first) > len(second) else "B") + mark)


# 900:100 much better, 50:200 much worse, 300:300 a tie, 450:400 better, 600:500 better; 0:600 is
# much worse without asking, and counts 0 as an empty answer.
EXTENTS = (2, -2, 0, 1, 1, 0)
GRADES = (1, 2, 3, 4, 5, 1)  # the empty answer's is 1 without asking


def test_the_scores_are_those_of_the_rule(tmp_path):
    report, _, server = judged(*setting(tmp_path), longer, tmp_path)
    found = figures(report)
    assert found["wb_score"] == pytest.approx(sum((g - 5) * 20 for g in GRADES) / 6)
    reward = 100 * sum(EXTENTS) / 2 / 6
    for model in REFERENCES:
        assert found[f"wb_reward_{model}_k500"] == pytest.approx(reward)
    assert found["wb_reward_mix_k500"] == found["wb_reward_mix_k-1"] == pytest.approx(reward)
    assert report.wanted == 24 and not report.missing
    # An empty answer is decided without asking, and the three references say the same here, in the
    # same order: equal questions are asked once.
    assert len(server.requests) == 5 * 2
    assert {json.dumps(r["response_format"]) for r in server.requests} == {
        '{"type": "json_object"}'
    }


def test_the_margin_makes_a_slight_win_by_length_a_tie(tmp_path):
    """K = 60: 600 against 500 becomes a tie, and 450 against 400 does not."""
    report, _, _ = judged(*setting(tmp_path, length_margin=60), longer, tmp_path)
    found = figures(report)
    assert found["wb_reward_mix_k60"] == pytest.approx(100 * (1 - 1 + 0 + 0.5 + 0 + 0) / 6)
    assert found["wb_reward_mix_k-1"] == pytest.approx(100 * sum(EXTENTS) / 2 / 6)


def test_a_comparison_with_a_cut_or_empty_answer_counts_0():
    long = "word " * 1001
    for mine, other in ((kept(long), "r"), ("m", kept(long)), (kept(" "), "r"), ("m", kept(""))):
        outcome = scores.Outcome("r", ["Math"], mine, other, 2, True)
        assert scores.reward(outcome, 500) == 0 and not outcome.whole
    assert kept(" a \n") == "a", "the authors' files keep no spaces around an answer"


# Published in leaderboard/data_dir/pairwise-gpt4t-K=500.json: how often a model won by far, won,
# tied, lost, and lost by far, of how many, and the reward. The rest were cut or empty.
PUBLISHED = {
    "claude-3-5-sonnet-20240620": ((102, 234, 340, 133, 124), 1024, 0.02783203125),
    "gemini-1.5-pro": ((79, 225, 298, 187, 105), 1023, -0.006842619745845552),
    "Llama-3-Instruct-8B-SimPO": ((67, 191, 354, 161, 224), 1024, -0.138671875),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_rewards_come_out_of_the_published_counts(model):
    counts, total, expected = PUBLISHED[model]
    outcomes = [
        scores.Outcome("r", ["Math"], "m", "r", extent, True)
        for extent, count in zip((2, 1, 0, -1, -2), counts, strict=True)
        for _ in range(count)
    ]
    empty = scores.Outcome("r", ["Math"], scores.EMPTY, "r", -2, True)
    outcomes += [empty] * (total - len(outcomes))
    (found, _) = scores.reward_figures(outcomes, "r", 500)
    assert found.value == pytest.approx(100 * expected, rel=1e-12)


# Published in leaderboard/data_dir/score.json: scores by group and their weighted mean.
GROUPS = ("Coding & Debugging", "Editing", "Advice seeking", "Planning", "Math")  # a tag of each
BY_GROUP = {
    "gpt-4o-2024-05-13": (
        (6.0473933649289116, 5.912144702842378, 5.861386138613861, 6.020958083832337,
         5.729083665338646),
        5.929817880351956,
    ),
    "deepseekv2-chat": (
        (4.443396226415095, 5.359173126614987, 5.181141439205955, 5.062874251497005,
         4.4523809523809526),
        4.821191935259587,
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", BY_GROUP)
def test_the_published_means_over_tasks_come_out_of_the_published_groups(model):
    means, expected = BY_GROUP[model]
    values = [([tag], mean) for tag, mean in zip(GROUPS, means, strict=True)]
    assert scores.task_mean(values) == pytest.approx(expected, rel=1e-12)


def test_the_published_wb_score_comes_out_of_the_published_mean():
    """score.json: a mean grade of 7.86328125 (gpt-4o-mini) is 5.7265625, shown as 57.27."""
    grades = [scores.Grade(["Math"], "m", 7.86328125)]
    assert scores.score_figures(grades)[0].value == pytest.approx(57.265625)


@pytest.mark.parametrize(
    "extent,mine,other,margin,reward",
    [
        (1, 110, 100, 10, 0.5),
        (1, 111, 100, 10, 0.0),
        (-1, 100, 111, 10, 0.0),
        (-1, 111, 100, 10, -0.5),
        (2, 999, 1, 10, 1.0),
        (-2, 1, 999, 10, -1.0),
        (1, 999, 1, -1, 0.5),
        (0, 1, 999, 10, 0.0),
    ],
)
def test_the_length_margin(extent, mine, other, margin, reward):
    outcome = scores.Outcome("r", ["Math"], "m" * mine, "r" * other, extent, True)
    assert scores.reward(outcome, margin) == reward


def test_the_weighted_mean_over_tasks():
    """Maths counts 1 and, by its second tag, planning 1.25; of 4.75 in all."""
    values = [(["Math", "Reasoning"], 30.0), (["Coding & Debugging"], 10.0), (["Planning"], 50.0)]
    planning = (30 + 50) / 2
    expected = (1.0 * 30 + 1.25 * planning + 1.25 * 10) / 4.75
    assert scores.task_mean(values) == pytest.approx(expected)


def test_cut_and_empty_answers_are_left_out_of_the_tasks(tmp_path):
    report, _, _ = judged(*setting(tmp_path), longer, tmp_path)
    kept = [
        ([tags[0], *tags[1]], (grade - 5) * 20)
        for tags, grade, length in zip(WILD_TAGS, GRADES, LENGTHS, strict=True)
        if length
    ]
    assert figures(report)["wb_score_by_task"] == pytest.approx(scores.task_mean(kept))
    cut = scores.Grade(["Math"], "word" + scores.CUT, 9)
    names = [f.name for f in scores.score_figures([cut])]
    assert names == ["wb_score"]


def test_the_prompts_are_filled_as_published(tmp_path):
    benchmark, questions, contestant = setting(tmp_path)
    asked = benchmark.comparisons(questions, contestant)
    (message,) = asked[0].request.messages
    text = message["content"]
    assert "USER: Hello rain.\n\nASSISTANT: Hello.\n\n" in text
    assert "<|begin_of_query|>\n\nHelp with rain.\n\n<|end_of_query|>" in text
    assert "- Is it about rain?\n- Is it kind?\n" in text
    assert (asked[0].request.temperature, asked[0].request.max_tokens) == (0.0, 1024)
    long = " ".join(["word"] * 1001)
    assert shown(long) == " ".join(["word"] * 1000) + "... (truncated)"
    assert shown(" \n") == "[This model response is empty.]"


def test_both_orders_occur_and_the_model_is_found_in_each(tmp_path):
    benchmark, questions, contestant = setting(tmp_path)
    parts = [c.part.split("/")[0] for c in benchmark.comparisons(questions, contestant)]
    assert {"model_first", "reference_first", "score"} == set(parts)
    report, _, _ = judged(
        benchmark, questions, contestant, lambda *_: as_json(choice="A++", score="9"), tmp_path
    )
    assert report.position.first_wins == 1 and report.position.exceeds(0.1)
    assert report.position.comparisons == 15, "empty answers tell nothing"


@pytest.mark.parametrize(
    "text,choice",
    [
        ('{"choice": "A+"}', "A+"),
        ('{"analysis of A": "a "quoted" word", "choice": "B++",}', "B++"),
        ('{"reason": "none"}', None),
        ("A is better", None),
        ("[1]", None),
    ],
)
def test_the_choice_of_a_judgement(text, choice):
    assert parsed(text, "choice") == choice


def test_missing_verdicts_are_counted(tmp_path):
    def rule(body, number):
        text = body["messages"][-1]["content"]
        if "## Response A" in text:
            return as_json(choice="A+++") if "rain" in text else longer(body, number)
        return Reply("nine", seconds=0) if "bread" in text else longer(body, number)

    report, _, _ = judged(*setting(tmp_path), rule, tmp_path)
    assert report.missing == {"no verdict in the text": 4}
    assert figures(report)["wb_score"] == pytest.approx((1 + 3 + 4 + 5 + 1 - 25) * 20 / 5)


def test_wb_score_alone_needs_no_references(tmp_path):
    benchmark = WildBench(rewards=False)
    questions = benchmark.load(wild_folder(tmp_path / "data", ()))
    assert len(benchmark.files()) == 1
    contestant = Contestant("policy", {q.uid: ("m",) for q in questions})
    report, _, server = judged(benchmark, questions, contestant, longer, tmp_path)
    assert len(server.requests) == 6 and report.position is None
    assert [f.name for f in report.figures] == ["wb_score", "wb_score_by_task"]


def test_the_files_are_the_authors_and_read_back(tmp_path):
    benchmark, questions, contestant = setting(tmp_path)
    file = benchmark.write_answers(questions, contestant, tmp_path)
    assert file.relative_to(tmp_path).as_posix() == "result_dirs/wild_bench_v2/policy.json"
    assert benchmark.read_answers(file, questions) == contestant
    judged(benchmark, questions, contestant, longer, tmp_path)
    graded = tmp_path / "eval_results/v2.0625/score.v2/eval=rule/policy.json"
    assert [r["score"] for r in json.loads(graded.read_text())] == ["1", "2", "3", "4", "5", "1"]
    pairs = tmp_path / f"eval_results/v2.0522/pairwise.v2/eval=rule/ref={REFERENCES[1]}/policy.json"
    rows = json.loads(pairs.read_text())
    winners = ["policy", REFERENCES[1], "tie", "policy", "policy", REFERENCES[1]]
    assert [r["winner"] for r in rows] == winners
    assert [r["extent"] for r in rows] == [2, 2, 0, 1, 1, 2]
    assert rows[0]["model_outputs"] == {"policy": "m" * 900, REFERENCES[1]: "r" * 100}
