"""Arena-Hard: labels of a judge with known taste, in both orders, and the authors' scores."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from gprl_lightning.benchmarks import arena_hard_scores as scores
from gprl_lightning.benchmarks.arena_hard import ArenaHard
from gprl_lightning.benchmarks.arena_hard_labels import label_of
from gprl_lightning.benchmarks.arena_hard_scores import StyledBattles
from gprl_lightning.benchmarks.markdown_style import Style, style_of
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


def planted(count: int, seed: int = 0):
    """Judgements in which longer answers win: labels, and styles of both answers."""
    random = np.random.default_rng(seed)
    labels, styles = [], []
    names = ["A>>B", "A>B", "A=B", "B>A", "B>>A"]
    for _ in range(count):
        mine = Style(int(random.integers(50, 400)), (2, 0, 0, 0, 0, 0), (1, 3), (2, 0))
        other = Style(
            int(random.integers(50, 400)),
            tuple(map(int, random.integers(0, 3, 6))),
            (int(random.integers(0, 9)), 2),
            (int(random.integers(0, 9)), 1),
        )
        pull = 2 * (mine.tokens - other.tokens) / (mine.tokens + other.tokens)
        draw = pull + random.normal()
        place = int(np.digitize(draw, [-1.0, -0.2, 0.2, 1.0]))
        labels.append((names[place], names[4 - place]))  # baseline first, model first
        styles.append((mine, other))
    return labels, styles


def oracle_battles(baseline_first: str, model_first: str) -> list[float]:
    """Return the model's outcomes, game by game, from the labels' characters."""
    found = []
    for label, as_a in ((model_first, True), (baseline_first, False)):
        weight = 3 if ">>" in label or "<<" in label else 1
        winner = None if "=" in label else label[0] if ">" in label else label[-1]
        score = 0.5 if winner is None else float((winner == "A") == as_a)
        found += [score] * weight
    return found


def test_battles_follow_the_labels():
    labels = [*scores.LABEL_SCORES]
    for a in labels:
        for b in labels:
            assert sorted(scores.battles(a, b)) == sorted(oracle_battles(a, b)), (a, b)


def bradley_terry(outcomes: list[float]) -> float:
    """Return the win rate by gradient ascent on the ratings of two players, in Elo's scale."""
    mine = theirs = 0.0
    for _ in range(4000):
        chance = 1 / (1 + 10 ** ((theirs - mine) / 400))
        slope = sum(y - chance for y in outcomes) / len(outcomes)
        mine, theirs = mine + 200 * slope, theirs - 200 * slope
    return 100 / (1 + 10 ** ((theirs - mine) / 400))


def test_v0_1_s_win_rate_is_the_bradley_terry_fit_and_its_bootstrap():
    labels, _ = planted(40)
    battles = [scores.battles(*pair) for pair in labels]
    flat = [y for group in battles for y in group]
    value, low, high = scores.win_rate_v0_1(battles)
    assert value == pytest.approx(bradley_terry(flat), abs=1e-6)
    draws = np.random.default_rng(0).integers(0, len(flat), (100, len(flat)))
    fitted = [bradley_terry([flat[i] for i in draw]) for draw in draws[:5]]
    assert fitted == pytest.approx([100 * np.mean([flat[i] for i in d]) for d in draws[:5]])
    means = sorted(100 * np.mean([flat[i] for i in draw]) for draw in draws)
    assert low == pytest.approx(np.percentile(means, 2.5))
    assert high == pytest.approx(np.percentile(means, 97.5))


def test_v2_s_win_rate_is_the_mean_of_its_bootstrap():
    labels, _ = planted(40)
    battles = [scores.battles(*pair) for pair in labels]
    flat = [y for group in battles for y in group]
    draws = np.random.default_rng(0).integers(0, len(flat), (100, len(flat)))
    means = [sum(flat[i] for i in draw) / len(flat) for draw in draws]
    value, low, high = scores.win_rate_v2(battles)
    assert value == pytest.approx(100 * sum(means) / 100)
    assert (low, high) == pytest.approx(tuple(100 * np.quantile(means, [0.05, 0.95])))


def gradient_fit(rows, outcomes, ridge):
    """Minimise log-loss + ridge / 2 ‖w‖² by plain gradient descent in float64."""
    rows, outcomes = np.asarray(rows, float), np.asarray(outcomes, float)
    weights = np.zeros(rows.shape[1])
    rate = 4 / (np.linalg.norm(rows, 2) ** 2 + 4 * ridge)
    for _ in range(60_000):
        chance = 1 / (1 + np.exp(-rows @ weights))
        weights -= rate * (rows.T @ (chance - outcomes) + ridge * weights)
    return weights


@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_the_logistic_fit_is_the_minimum(ridge):
    random = np.random.default_rng(1)
    rows = random.normal(size=(80, 3))
    outcomes = random.choice([0.0, 0.5, 1.0], 80)
    found = scores.fit_logistic(rows, outcomes, ridge)
    assert found == pytest.approx(gradient_fit(rows, outcomes, ridge), abs=1e-6)


def oracle_style_v2(labels, styles):
    """Return the logit of the win rate at equal style on all battles, by v2's formula, in loops."""
    rows, outcomes = [], []
    for pair, (mine, other) in zip(labels, styles, strict=True):
        features = [(mine.tokens - other.tokens) / (mine.tokens + other.tokens)]
        for a, b in zip(mine.marks, other.marks, strict=True):
            x, y = a / mine.tokens, b / other.tokens
            features.append((x - y) / (x + y + 1))
        for outcome in oracle_battles(*pair):
            rows.append(features)
            outcomes.append(outcome)
    columns = list(zip(*rows, strict=True))
    means = [sum(c) / len(c) for c in columns]
    spreads = [
        math.sqrt(sum((v - m) ** 2 for v in c) / (len(c) - 1))
        for c, m in zip(columns, means, strict=True)
    ]
    design = [
        [1.0, -1.0, *[(v - m) / s for v, m, s in zip(r, means, spreads, strict=True)]] for r in rows
    ]
    return design, outcomes


def test_v2_s_style_control(monkeypatch):
    """One round that draws each battle once is the fit to all battles."""
    labels, styles = planted(60)
    battles = [scores.battles(*pair) for pair in labels]
    design, outcomes = oracle_style_v2(labels, styles)
    weights = gradient_fit(design, outcomes, 0.0)
    expected = 100 / (1 + math.exp(weights[1] - weights[0]))

    def every_battle_once(rate, size, seed):
        return np.array([rate(np.arange(size))])

    monkeypatch.setattr(scores, "_bootstrap", every_battle_once)
    value, low, high = scores.style_control_v2(StyledBattles(battles, styles))
    assert value == low == high == pytest.approx(expected, abs=1e-4)


def test_v0_1_s_style_control():
    """Ratings in log 10, counts' relative differences, battles twice, a ridge on everything."""
    labels, styles = planted(60)
    rows, outcomes = [], []
    for pair, (mine, other) in zip(labels, styles, strict=True):
        features = [
            (a - b) / (a + b + 1)
            for a, b in zip((mine.tokens, *mine.marks), (other.tokens, *other.marks), strict=True)
        ]
        for outcome in oracle_battles(*pair):
            rows += [features] * 2
            # The authors make a tie one win and one loss.
            outcomes += [1.0, 0.0] if outcome == 0.5 else [outcome] * 2
    array = np.asarray(rows)
    array = (array - array.mean(0)) / array.std(0)
    ratings = np.tile([math.log(10), -math.log(10)], (len(array), 1))
    weights = gradient_fit(np.hstack([ratings, array]), outcomes, 1.0)
    expected = 100 / (1 + 10 ** (weights[1] - weights[0]))
    value, low, high = scores.style_control_v0_1(
        StyledBattles([scores.battles(*p) for p in labels], styles)
    )
    assert value == pytest.approx(expected, abs=1e-4)
    assert low < value < high


@pytest.mark.parametrize("version", ["v0.1", "v2.0"])
def features_of(version, mine, other):
    """Return v0.1's or v2's four features of one pair, in loops."""
    if version == "v0.1":
        pairs = zip((mine.tokens, *mine.marks), (other.tokens, *other.marks), strict=True)
        return [(a - b) / (a + b + 1) for a, b in pairs]
    found = [(mine.tokens - other.tokens) / (mine.tokens + other.tokens)]
    for a, b in zip(mine.marks, other.marks, strict=True):
        x, y = a / mine.tokens, b / other.tokens
        found.append((x - y) / (x + y + 1))
    return found


@pytest.mark.parametrize("version", ["v0.1", "v2.0"])
def test_models_are_fitted_together(version, monkeypatch):
    """One column for each model and one for the baseline, the features of all battles alike."""
    groups, old = [planted(30, seed) for seed in (1, 2)], version == "v0.1"
    rows, outcomes, models = [], [], []
    for place, (labels, styles) in enumerate(groups):
        for pair, (mine, other) in zip(labels, styles, strict=True):
            for outcome in oracle_battles(*pair):
                rows.append(features_of(version, mine, other))
                outcomes.append(outcome)
                models.append([float(place == 0), float(place == 1), -1.0])
    unit = math.log(10) if old else 1.0
    array = np.asarray(rows)
    array = (array - array.mean(0)) / array.std(0, ddof=0 if old else 1)
    design = np.hstack([unit * np.asarray(models), array])
    if old:
        design, outcomes = np.vstack([design, design]), [*outcomes, *outcomes]
    weights = gradient_fit(design, outcomes, 1.0 if old else 0.0)
    expected = 100 / (1 + math.exp(unit * (weights[2] - weights[0])))

    def every_battle_once(rate, size, seed):
        return np.array([rate(np.arange(size))])

    monkeypatch.setattr(scores, "_bootstrap", every_battle_once)
    fit = scores.style_control_v0_1 if old else scores.style_control_v2
    own, other = (
        StyledBattles([scores.battles(*p) for p in labels], styles) for labels, styles in groups
    )
    assert fit(own, [other])[0] == pytest.approx(expected, abs=1e-3)
    assert fit(own)[0] != pytest.approx(expected, abs=1e-3), "alone it is another number"


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


def test_control_takes_the_length_out():
    """The model is longer, and longer answers win: at equal length it wins less."""
    random = np.random.default_rng(3)
    labels, styles = [], []
    for _ in range(300):
        mine, other = int(random.integers(200, 500)), int(random.integers(100, 300))
        wins = random.random() < 1 / (1 + math.exp(-6 * (mine - other) / (mine + other)))
        labels.append(("B>A", "A>B") if wins else ("A>B", "B>A"))
        plain = ((0,) * 6, (0, 0), (0, 0))
        styles.append((Style(mine, *plain), Style(other, *plain)))
    battles = [scores.battles(*pair) for pair in labels]
    plain_rate = scores.win_rate_v2(battles)[0]
    # Standardised features take the mean difference in length with them, as the script has it.
    controlled = scores.style_control_v2(StyledBattles(battles, styles))
    assert plain_rate > 70 and controlled[1] < controlled[0] < controlled[2]


def test_style_counts_leave_code_out():
    text = "# One\n\n## Two\n- a\n* b\n1. c\n**bold** and __too__\n```\n# no\n- no\n**no**\n```\n"
    style = style_of(text, lambda t: len(t.split()))
    assert style.headers == (1, 1, 0, 0, 0, 0)
    assert (style.lists, style.bold) == ((1, 2), (1, 1))
    assert style.tokens == len(text.split())
    assert style.metadata()["header_count"] == {
        "h1": 1,
        "h2": 1,
        "h3": 0,
        "h4": 0,
        "h5": 0,
        "h6": 0,
    }
    assert style.marks == (2, 3, 2)
