"""The simple stops, by hand and against a search in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gprl_lightning.study.runs import read_grid
from gprl_lightning.study.stopping import (
    CLOCK,
    FIXED_BETA,
    KL_TRIGGER,
    at_horizon,
    chosen_elsewhere,
    stopped_at,
    stopped_beyond,
    stops,
)
from tests.study.simulated import run
from tests.study.synthetic_grid import write_run

GOLD = np.array([0.5, 0.6, 0.8, 0.4])
ONE = run("a", 0, GOLD, np.array([0.0, 2.0, 1.0, 4.0]))


def test_a_stop_ends_the_curve():
    """The mean of the last two evaluations, wherever the last one is."""
    assert at_horizon(ONE) == pytest.approx(0.6)
    assert stopped_at(ONE, 0) == 0.5
    assert stopped_at(ONE, 20) == stopped_at(ONE, 29) == pytest.approx(0.7)
    assert stopped_beyond(ONE, 1.5) == pytest.approx(0.55)
    assert stopped_beyond(ONE, 3) == stopped_beyond(ONE, 9) == pytest.approx(0.6)


def test_each_seed_is_chosen_for_by_the_others():
    """The first option is best for seeds 1 and 2, the second by far for seed 0."""
    options = [{0: 0.1, 1: 0.6, 2: 0.6}, {0: 0.9, 1: 0.5, 2: 0.5}]
    assert chosen_elsewhere(options) == {0: 0.1, 1: 0.5, 2: 0.5}
    assert chosen_elsewhere(options, tuning=[0]) == {1: 0.5, 2: 0.5}
    assert chosen_elsewhere(options, tuning=[1, 2]) == {0: 0.1}
    assert chosen_elsewhere([{0: 0.1}]) == {}, "a single seed has no others"
    assert chosen_elsewhere([*options, {0: 0.2}]) == {}, "an option that was run on one seed only"


def test_the_stops_of_a_grid_over_beta():
    """β = .1 is the best of three for seeds 0, 1 and 2; other rates and arms are not its likes."""
    rng = np.random.default_rng(0)
    arms: dict = {}
    for name, level in (
        ("mine algorithm.kl_coef=0.01 lr=1", 0.5), ("mine algorithm.kl_coef=0.1 lr=1", 0.7),
        ("mine algorithm.kl_coef=1 lr=1", 0.6), ("mine algorithm.kl_coef=1 lr=2", 0.9),
        ("yours algorithm.kl_coef=0.1 lr=1", 0.95),
    ):  # fmt: skip
        gold = level + rng.normal(0, 0.01, (3, 4))
        arms[name] = {s: run(name, s, g, np.arange(4.0)) for s, g in enumerate(gold)}
    best = arms["mine algorithm.kl_coef=0.1 lr=1"]
    found = stops(arms, "mine algorithm.kl_coef=0.01 lr=1")
    assert found[FIXED_BETA] == {s: at_horizon(r) for s, r in best.items()}


def test_clock_and_trigger_are_the_best_on_the_other_seeds():
    rng = np.random.default_rng(0)
    runs = {
        seed: run("a", seed, rng.uniform(0.3, 0.9, 4), np.sort(rng.uniform(0, 5, 4)))
        for seed in range(4)
    }
    found = stops({"a": runs}, "a")
    furthest = max(r.distance().max() for r in runs.values())
    for name, options, stop in (
        (CLOCK, [0, 10, 20, 30], stopped_at),
        (KL_TRIGGER, [furthest * i / 40 for i in range(1, 41)], stopped_beyond),
    ):
        for seed in runs:
            best, chosen = -math.inf, None
            for option in options:
                mean = sum(stop(runs[o], option) for o in runs if o != seed) / 3
                if mean > best + 1e-12:
                    best, chosen = mean, option
            assert chosen is not None
            assert found[name][seed] == pytest.approx(stop(runs[seed], chosen)), (name, seed)


@pytest.mark.parametrize("key", ["ablation", "algorithm"])
def test_the_curves_of_any_grid_on_disk_can_be_stopped(tmp_path, key):
    """Three seeds alike: the clock at 20 ends on (.6 + .8)/2, the trigger at √KL 2 likewise."""
    gold, kl = [0.5, 0.6, 0.8, 0.4, 0.2], [0.0, 1.0, 4.0, 9.0, 16.0]
    for seed in range(3):
        write_run(tmp_path, "grpo_bt", seed, gold, kl, key=key)
        write_run(tmp_path, "max_min", seed, [0.5] * 5, kl, key=key)
    arms: dict = {}
    for one in read_grid(tmp_path):
        arms.setdefault(one.arm, {})[one.seed] = one
    found = stops(arms, "grpo_bt")
    assert found[FIXED_BETA] == {seed: pytest.approx(0.3) for seed in range(3)}
    for name in (CLOCK, KL_TRIGGER):
        assert found[name] == {seed: pytest.approx(0.7) for seed in range(3)}
