"""A reward with a set point: by loops over iterations and processes, refused, and alive."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gprl_lightning.config.validation import validate
from gprl_lightning.core.constrained import Constrained
from gprl_lightning.errors import ConfigError
from tests import oracle
from tests.composing import composed
from tests.core.baseline_groups import AXES, GROUPS, SIZE, advantages, identity, scored_groups
from tests.core.examples import close, double

RULE = Constrained(set_point=0.5, rate=0.4, bound=1.5)


def shifted(given, by):
    vectors = given.vectors.clone()
    vectors[..., 0] += double(by)
    return replace(given, vectors=vectors)


def run(rule, batches):
    state, found = {}, []
    for given in batches:
        result = rule(given, state, identity)
        state = result.state
        found.append(result.advantages)
    return state, found


def looped(rule, batches):
    start, unit, multiplier, found = [], [], [0.0] * AXES, []
    for given in batches:
        rewards = given.vectors[..., 0].flatten(0, 1).tolist()
        means = [oracle.mean(oracle.column(rewards, a)) for a in range(AXES)]
        if not start:
            start = means
            unit = [oracle.std(oracle.column(rewards, a)) for a in range(AXES)]
        for a in range(AXES):
            rise = (means[a] - start[a]) / unit[a] - rule.set_point
            multiplier[a] = min(max(multiplier[a] + rule.rate * rise, 0.0), rule.bound)
        batch = []
        for scores, weights in zip(given.scores().tolist(), given.weights().tolist(), strict=True):
            columns = [oracle.zscore(oracle.column(scores, a), rule.epsilon) for a in range(AXES)]
            batch.append(
                [
                    sum(weights[a] * (1 - multiplier[a]) * columns[a][i] for a in range(AXES))
                    for i in range(SIZE)
                ]
            )
        found.append(batch)
    return multiplier, found


def test_several_iterations_against_loops():
    """The first axis goes far beyond its set point and comes back; the second never reaches it."""
    first = scored_groups(rewards=True)
    batches = [shifted(first, [rise, 0.1]) for rise in (0.0, 1.0, 3.0, 3.0, 9.0, 0.2, -4.0)]
    state, found = run(RULE, batches)
    multiplier, expected = looped(RULE, batches)
    for result, wanted in zip(found, expected, strict=True):
        close(result, wanted)
    assert state["multiplier"].tolist() == pytest.approx(multiplier)
    state, found = run(RULE, batches[:5])
    assert state["multiplier"].tolist() == [1.5, 0.0]
    close(found[0], run(RULE, batches[:1])[1][0].tolist())


def test_an_axis_at_its_bound_is_taken_back():
    first = replace(scored_groups(rewards=True), eigenvalues=double([[1.0, 0.0]] * GROUPS))
    _, found = run(Constrained(rate=10.0, bound=2.0), [first, shifted(first, [9.0, 0.0])])
    torch.testing.assert_close(found[1], -found[0])
    _, found = run(Constrained(rate=10.0, bound=1.0), [first, shifted(first, [9.0, 0.0])])
    assert (found[1] == 0).all()


def test_means_are_those_of_all_processes():
    whole = shifted(scored_groups(rewards=True), [2.0, 0.0])
    state, _ = run(RULE, [scored_groups(rewards=True)])
    expected = RULE(whole, state, identity).state["multiplier"]
    parts = [whole.vectors[:1, ..., 0], whole.vectors[1:, ..., 0]]
    sums: list[Tensor] = []
    for part in parts:
        RULE.moved(part, state, lambda s: sums.append(s) or s)
    for part in parts:
        found = RULE.moved(part, state, lambda _: sums[0] + sums[1])
        torch.testing.assert_close(found["multiplier"], expected)


def test_a_broken_reward_leaves_the_multiplier_and_is_seen():
    first = scored_groups(rewards=True)
    state, found = run(RULE, [first, shifted(first, [torch.nan, 0.0])])
    assert state["multiplier"].isfinite().all() and found[1].isnan().all()
    level = replace(first, vectors=first.vectors[:, :1].expand(-1, SIZE, -1, -1).contiguous())
    assert (advantages(RULE, level) == 0).all()


@pytest.mark.parametrize(
    "option, value", [("set_point", 1.5), ("rate", 0.1), ("bound", 1.0), ("epsilon", 0.3)]
)
def test_every_option_is_alive(option, value):
    first = scored_groups(rewards=True)
    batches = [first, shifted(first, [3.0, 0.0]), shifted(first, [3.0, 0.0])]
    found, changed = run(RULE, batches)[1], run(replace(RULE, **{option: value}), batches)[1]
    assert max((a - b).abs().max() for a, b in zip(found, changed, strict=True)) > 1e-3


def test_a_source_that_only_compares_is_refused():
    with pytest.raises(ValueError, match=r"algorithm/advantage=constrained: expected a preference"):
        RULE(scored_groups(), {}, identity)
    with pytest.raises(ConfigError, match=r"algorithm/advantage=constrained.*kind=gpm"):
        validate(composed("algorithm/advantage=constrained"))
    for option in ("set_point=0", "rate=0", "bound=0.5"):
        name, value = option.split("=")
        with pytest.raises(ValueError, match=rf"algorithm\.advantage\.{name}"):
            Constrained(**{name: float(value)})


def test_the_word_brings_its_reward():
    config = validate(composed("algorithm=constrained"))
    assert config.preference_model.kind == "bradley_terry" and not config.drift.enabled
    assert config.algorithm.asks_for_rewards
