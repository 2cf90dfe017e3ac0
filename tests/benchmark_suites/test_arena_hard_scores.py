"""Arena-Hard's scores on planted judgements, against the authors' formulas written again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gprl_lightning.benchmarks import arena_hard_scores as scores
from gprl_lightning.benchmarks.arena_hard_scores import StyledBattles
from gprl_lightning.benchmarks.markdown_style import Style, style_of


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
