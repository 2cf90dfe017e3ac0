"""Best-of-n: every subset by hand, chosen by proxies of all kinds, and a run from its words."""

from __future__ import annotations

import csv
import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch

from gprl_lightning.config.validation import validate
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.errors import ConfigError
from gprl_lightning.evaluation.best_of_n import best_of_n, chances_of_best, kl_of_best
from gprl_lightning.tasks.best_of_n import best_of_n_by_source, outcomes, qualities
from tests.composing import composed

SIZES = [1, 2, 5]


def worth_by_subsets(quality, outcome, n):
    """The mean over all subsets of n of the outcome of its best; of equals, of their mean."""
    found = []
    for subset in combinations(range(len(quality)), n):
        top = max(quality[i] for i in subset)
        best = [outcome[i] for i in subset if quality[i] == top]
        found.append(math.fsum(best) / len(best))
    return math.fsum(found) / len(found)


@pytest.mark.parametrize("n", range(1, 8))
@pytest.mark.parametrize("ties", [False, True])
def test_chances_are_those_over_all_subsets(n, ties):
    draws = np.random.default_rng(n)
    quality = draws.integers(0, 3, 7).astype(float) if ties else draws.normal(size=7)
    outcome = draws.random(7)
    found = chances_of_best(quality, n)
    assert found.sum() == pytest.approx(1)
    assert float(found @ outcome) == pytest.approx(worth_by_subsets(quality, outcome, n))


def test_the_curve_is_a_mean_over_prompts():
    draws = np.random.default_rng(0)
    quality, outcome = draws.normal(size=(6, 5)), draws.random((6, 5))
    curve = best_of_n(quality, outcome, SIZES)
    for point, n in zip(curve, SIZES, strict=True):
        worth = [worth_by_subsets(q, o, n) for q, o in zip(quality, outcome, strict=True)]
        assert point.gold.mean == pytest.approx(math.fsum(worth) / 6)
        assert point.gold.low < point.gold.mean < point.gold.high
        own = [worth_by_subsets(q, q, n) for q in quality]
        assert point.quality == pytest.approx(math.fsum(own) / 6)
    assert [point.n for point in curve] == SIZES
    assert curve[0].quality < curve[1].quality < curve[2].quality


def test_a_better_proxy_gains_with_n_and_a_reversed_one_loses():
    draws = np.random.default_rng(1)
    gold = draws.random((50, 16))
    up, down = (best_of_n(sign * gold, gold, [1, 4, 16]) for sign in (1, -1))
    assert up[0].gold.mean == pytest.approx(down[0].gold.mean) == pytest.approx(gold.mean())
    assert up[2].gold.mean == pytest.approx(gold.max(1).mean())
    assert down[2].gold.mean == pytest.approx(gold.min(1).mean())


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_kl_is_that_of_the_best_of_n_distribution(n):
    """Of an infinite vocabulary: density n u^(n − 1) of the quantile u, against 1."""
    u = (np.arange(200_000) + 0.5) / 200_000
    density = n * u ** (n - 1)
    assert kl_of_best(n) == pytest.approx(float((density * np.log(density)).mean()), abs=1e-3)


def test_a_reward_is_ordered_by_itself_and_a_cycle_by_means():
    rewards = torch.tensor([[[3.0], [1.0], [2.0]]])
    found = Embeddings.of_rewards(rewards, torch.tensor([[2.0]]))
    quality = qualities(found.vectors, found.eigenvalues, tau=0.5)
    assert quality.tolist() == [[6.0, -6.0, 0.0]]  # 2 · mean difference / 0.5
    beats = torch.tensor([[[0.0, 1, 1, 1], [-1, 0, 1, -1], [-1, -1, 0, 1], [-1, 1, -1, 0]]])
    pairs = Embeddings.of_pairs(beats[..., None], torch.ones(1, 1))
    quality = qualities(pairs.vectors, pairs.eigenvalues, tau=1.0)[0].tolist()
    assert quality == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])


class Verdicts:
    """Longer is better; no verdict where one of them is empty."""

    def prefer(self, prompts, responses, others):
        rows = zip(responses, others, strict=True)
        return [None if not a or not b else 1.0 * (len(a) > len(b)) for a, b in rows]

    def axes(self, prompts, responses):
        return {}


def test_outcomes_are_means_over_the_verdicts_that_there_are():
    assert outcomes(Verdicts(), None, ["aaa", "a"], ["aa", ""]) == [1.0, 0.0]
    assert outcomes(Verdicts(), None, ["aaa", "aa"], ["a", "aaaa"]) == [0.5, 0.5]
    assert outcomes(Verdicts(), None, ["aaa", ""], ["a", "aa"]) is None


def brief(prompts, completions, **columns):
    return [-float(len(text)) for text in completions]


def words(*more):
    return (
        "task=best_of_n", "experiment=smoke", "preference_model=functions", "drift=disabled",
        f"preference_model.functions=[{__name__}.brief]", "best_of_n.samples=6",
        "best_of_n.sizes=[1,2,6]", "best_of_n.opponents=2", "evaluation.prompts=5", *more,
    )  # fmt: skip


def test_a_run_leaves_table_picture_and_summary(tmp_path):
    cfg = composed(*words())
    worth = best_of_n_by_source(validate(cfg), cfg, tmp_path)
    with (tmp_path / "best_of_n.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["n"]) for row in rows] == [1, 2, 6]
    assert float(rows[-1]["win_rate"]) == worth and 0 <= worth <= 1
    assert [float(row["kl"]) for row in rows] == pytest.approx([kl_of_best(n) for n in (1, 2, 6)])
    qualities_found = [float(row["quality"]) for row in rows]
    assert qualities_found[0] == pytest.approx(0, abs=1e-9)  # the mean of mean differences
    assert qualities_found == sorted(qualities_found)
    final = json.loads((tmp_path / "summary.json").read_text())["final"]
    assert final["best_of_n/6/win_rate"] == worth
    assert (tmp_path / "best_of_n.png").stat().st_size > 5_000
    again = composed(*words("evaluation.batch_size=100"))
    assert best_of_n_by_source(validate(again), again, tmp_path) == pytest.approx(worth)
    more = composed(*words("best_of_n.opponents=3"))
    assert best_of_n_by_source(validate(more), more, tmp_path) != worth


@pytest.mark.parametrize(
    "words, message",
    [
        (["best_of_n.sizes=[1,65]"], r"best_of_n\.sizes=\[1, 65\]: expected rising numbers, up to"),
        (["best_of_n.sizes=[2,1]"], r"best_of_n\.sizes"),
        (["task=best_of_n", "data.held_out=100"], r"evaluation\.prompts=200"),
    ],
)
def test_what_cannot_be_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        validate(composed(*words))


def test_the_reward_alone_cannot_say_what_its_choice_is_worth(tmp_path):
    cfg = composed(*words("evaluation.judge=preference_model"))
    with pytest.raises(ConfigError, match="expected a judge besides the reward"):
        best_of_n_by_source(validate(cfg), cfg, tmp_path)


def test_the_gold_may_choose_itself():
    validate(composed("task=best_of_n", "ablation=gold_reward"))
