"""Learning from pairs: gradients against a plain computation, who samples, and when rounds end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gprl_lightning.config import AlgorithmConfig
from gprl_lightning.core.game_gains import GameGains, best_and_worst
from gprl_lightning.core.iteration import ITERATION
from gprl_lightning.core.pair_losses import DPO, IPO, PairLogprobs, SimPO
from gprl_lightning.core.preference import pairwise_scores, total_scores
from gprl_lightning.core.square_loss import SquareLoss
from gprl_lightning.errors import ConfigError
from gprl_lightning.modules.pair_objective import PairObjective
from gprl_lightning.modules.pair_source import drawn_pairs, reference_sums
from gprl_lightning.modules.pair_statistics import PairStatistics
from gprl_lightning.rollout.native import NativeSampler
from tests.pair_worlds import stepped_by_hand, tiny_parts
from tests.worlds import SIZE

LOSSES = {"dpo": DPO(), "ipo": IPO(), "simpo": SimPO(), "sppo": SquareLoss(beta=0.01)}


def make(loss: Any, dtype: torch.dtype = torch.float32, **options: Any) -> PairObjective:
    return stepped_by_hand(PairObjective(tiny_parts(dtype=dtype), loss, **options))


def batch(module: PairObjective, iteration: int = 0) -> Any:
    """What the module's own loader gives."""
    return module.loader(0, 1).batch(iteration)


def drawn(module: PairObjective, iteration: int = 0) -> Any:
    """The pairs of an iteration, and their groups."""
    given = batch(module, iteration)
    return drawn_pairs(module.parts, module.options, module._player, given)[:2]


def pairs_of(module: PairObjective, iteration: int = 0) -> Any:
    return drawn(module, iteration)[0]


def step(module: PairObjective, iteration: int) -> Any:
    return module.training_step(batch(module, iteration), iteration)[ITERATION]


def moved(module: PairObjective, size: float = 0.02) -> None:
    """Step away from the reference, so that log-ratios are not 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter += size * torch.randn_like(parameter)


def gradients(module: PairObjective, pairs, ref: Tensor, order: Tensor | None = None) -> Tensor:
    """Of one optimiser step, before it, accumulated as the module accumulates them."""
    module.policy.zero_grad()
    index = torch.arange(len(pairs)) if order is None else order
    module._backward(pairs, ref, index, PairStatistics(has_reference=True))
    return torch.cat([p.grad.flatten() for p in module.policy.parameters() if p.grad is not None])


def plain(module: PairObjective, pairs) -> Tensor:
    """The same by one forward pass over single rows, in a loop, and autograd."""

    def whole(network: Any, row: int) -> Tensor:
        group, rollout = row // pairs.rollout.group_size, pairs.rollout
        mask = rollout.response_mask[row : row + 1]
        logprobs, _ = network(
            rollout.prompts.input_ids[group : group + 1], rollout.prompts.mask[group : group + 1],
            rollout.response_ids[row : row + 1], mask,
        )  # fmt: skip
        return logprobs[mask].sum()

    module.policy.zero_grad()
    losses = []
    for pair, rows in enumerate(pairs.rows.tolist()):
        reference = torch.zeros(2).double()
        if module.loss.needs_reference:
            with torch.no_grad():
                reference = torch.stack([whole(module.reference, row) for row in rows])
        given = PairLogprobs(
            torch.stack([whole(module.policy, row) for row in rows])[None], reference[None],
            pairs.rollout.response_mask.sum(1)[rows][None], pairs.labels[pair, None],
            pairs.gains[pair, None],
        )  # fmt: skip
        losses.append(module.loss(given).loss[0])
    torch.stack(losses).mean().backward()
    norm = torch.nn.utils.clip_grad_norm_(module.policy.parameters(), 1.0)
    assert norm > 1e-3
    return torch.cat([p.grad.flatten() for p in module.policy.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("source", ["sampled", "file"])
def test_gradients_are_those_of_a_plain_computation_however_they_are_split(name, source):
    module = make(LOSSES[name], torch.float64, pairs=source)
    moved(module)
    pairs = pairs_of(module)
    compared = module.reference if module.loss.needs_reference else None
    ref = reference_sums(compared, pairs, module.algorithm)
    expected = plain(module, pairs)
    few, most, tokens = ({"micro_batch_size": n} for n in (2, 4, 6)), {}, {"micro_batch_tokens": 60}
    for bounds in (*few, most, tokens):
        module.algorithm = AlgorithmConfig(**bounds)
        for order in (None, torch.tensor([2, 0, 1])):
            found = gradients(module, pairs, ref, order)
            assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_sampled_pairs_are_the_groups_best_and_worst():
    module = make(DPO())
    prompts = batch(module)
    pairs, group = drawn(module)
    source = module.source.module
    found = source.embed(prompts.messages, pairs.rollout.grouped_responses(), prompts.columns)
    score = total_scores(pairwise_scores(found.vectors), found.eigenvalues[:, None, None])
    chance = torch.sigmoid(score / source.tau).mean(2)
    first = torch.arange(3)[:, None] * SIZE
    assert torch.equal(pairs.rows, first + best_and_worst(chance))
    torch.testing.assert_close(pairs.gains[:, 0], chance.amax(1) - 0.5)
    torch.testing.assert_close(group.scored.advantages, chance - 0.5)
    assert group.scored.rollout is pairs.rollout and group.logprobs is None


@pytest.mark.parametrize("gain", ["probability", "score"])
def test_an_iteration_gives_the_groups_that_it_has(gain):
    """With the reference's log-probabilities where it has sampled; of a file there are none."""
    module = make(SquareLoss(), gain=gain)
    scored = step(module, 0).group.scored
    assert scored.rule == GameGains(gain) and scored.axes == module.source.module.axes
    log, mask = scored.rollout.old_logprobs, scored.rollout.response_mask
    torch.testing.assert_close(
        scored.groups.ref_logprobs, torch.where(mask, log, 0.0).double().sum(1).view(3, SIZE)
    )
    online = step(make(DPO(), player="policy"), 0).group.scored
    assert online.groups.ref_logprobs.isnan().all() and online.advantages.any()
    assert step(make(DPO(), pairs="file"), 0).group is None


@pytest.mark.parametrize("player, same", [("reference", True), ("policy", False)])
def test_who_samples(player, same):
    """From the reference, responses do not change with the policy: pairs are offline."""
    module = make(DPO(), player=player)
    before = pairs_of(module).rollout.responses
    moved(module, 0.3)
    assert (pairs_of(module).rollout.responses == before) == same


def weights(network: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_a_round_ends_with_the_policy_as_the_reference():
    module = make(SquareLoss(), round_length=2)
    start = weights(module.reference)
    step(module, 0)
    assert torch.equal(weights(module.reference), start)
    step(module, 1)
    assert torch.equal(weights(module.reference), weights(module.policy))
    assert not torch.equal(weights(module.reference), start)
    assert not any(p.requires_grad for p in module.reference.parameters())


class Engine(NativeSampler):
    """A sampler with weights of its own, which are the policy's."""

    own_weights = True


def test_an_engine_holds_the_policys_weights_and_not_the_references():
    parts = tiny_parts()
    parts.sampler = Engine()
    with pytest.raises(ConfigError, match=r"rollout\.sampler: expected one that reads .* Engine"):
        PairObjective(parts, DPO()).loader(0, 1)
    assert PairObjective(parts, DPO(), player="policy").loader(0, 1)


def test_rounds_need_a_reference_that_somebody_asks_for():
    with pytest.raises(ConfigError, match=r"objective\.round_length=2: expected null"):
        make(SimPO(), pairs="file", round_length=2)
    assert make(SimPO(), round_length=2).reference is not None  # it samples


def test_without_rounds_the_reference_stays():
    module = make(DPO())
    start = weights(module.reference)
    for iteration in range(3):
        step(module, iteration)
    assert torch.equal(weights(module.reference), start)
    assert not torch.equal(weights(module.policy), start)


@pytest.mark.parametrize("name", LOSSES)
def test_the_margin_of_a_files_pairs_grows(name):
    module = make(LOSSES[name], pairs="file")
    margins = [float(step(module, i).update.metrics["train/pair_margin"]) for i in range(6)]
    assert margins[-1] > margins[0]


def test_what_is_not_read_is_not_built():
    """SimPO on a file has neither reference nor source; DPO on a file has no source."""
    module = make(SimPO(), pairs="file")
    update = step(module, 0).update
    assert module.frozen == {} and {"start", "source"}.isdisjoint(vars(module.parts))
    assert update.reference_gap is None and "train/pair_log_ratio" not in update.metrics
    assert list(make(DPO(), pairs="file").frozen) == ["reference"]
    assert sorted(make(DPO()).frozen) == ["preference_model", "reference"]
    assert list(make(SquareLoss(), round_length=2).frozen) == ["preference_model"]


def test_sppo_and_gpo_learn_from_other_gains():
    chances, scores = (
        pairs_of(make(SquareLoss(), gain=gain)).gains for gain in ("probability", "score")
    )
    assert (chances.abs() <= 0.5).all() and (scores - chances).abs().max() > 0.01


def test_a_checkpoint_holds_the_rounds_policy():
    module, other = make(SquareLoss(), round_length=1), make(SquareLoss(), round_length=1)
    step(module, 0)
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    assert not torch.equal(weights(module.reference), weights(other.reference))
    other.on_load_checkpoint(checkpoint)
    assert torch.equal(weights(module.reference), weights(other.reference))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pairs": "online"}, r"objective\.pairs='online'"),
        ({"player": "both"}, r"objective\.player='both'"),
        ({"gain": "rank"}, r"objective\.gain='rank'"),
        ({"round_length": 0}, r"objective\.round_length=0: expected >= 1"),
        ({"pairs": "file", "player": "policy"}, r"objective\.player=policy: expected reference"),
    ],
)
def test_what_means_nothing_is_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        make(DPO(), **options)
