"""Every method by one word of `algorithm`: it composes, is what its paper says, and trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from gprl_lightning.config.validation import validate
from gprl_lightning.core.iteration import ITERATION
from gprl_lightning.core.pair_losses import DPO, IPO, SimPO
from gprl_lightning.core.square_loss import SquareLoss
from tests.composing import composed
from tests.pair_worlds import stepped_by_hand, tiny_parts

# The loss with its published defaults, who samples, what ranks a group, and whether rounds end.
ON_PAIRS: dict[str, tuple[Any, str, str, bool]] = {
    "dpo": (DPO(0.1, 0.0), "reference", "probability", False),
    "ipo": (IPO(0.1, True), "reference", "probability", False),
    "simpo": (SimPO(2.5, 0.55, 0.0), "reference", "probability", False),
    "online_dpo": (DPO(0.1, 0.0), "policy", "probability", False),
    "sppo": (SquareLoss(1e-3, False), "reference", "probability", True),
    "gpo": (SquareLoss(1e-3, False), "reference", "score", True),
}


@pytest.mark.parametrize("word", ON_PAIRS)
@pytest.mark.parametrize("experiment", ["sandbox", "smoke"])
def test_a_word_is_its_papers_method_and_trains(word, experiment):
    cfg = composed(f"algorithm={word}", f"experiment={experiment}", "data.prompts_per_step=3")
    config = validate(cfg)
    assert not config.drift.enabled
    module = stepped_by_hand(instantiate(cfg.objective)(tiny_parts(config)))
    loss, player, gain, rounds = ON_PAIRS[word]
    options = module.options
    assert (module.loss, options.player, options.gain) == (loss, player, gain)
    assert (options.round_length is not None) == rounds and options.pairs == "sampled"
    before = [p.clone() for p in module.policy.parameters()]
    batch = next(iter(module.loader(0, 1)))
    iteration = module.training_step(batch, 0)[ITERATION]
    assert iteration.update.metrics["train/grad_norm"] > 0 and not iteration.update.bad_rows
    assert any(
        not torch.equal(a, b) for a, b in zip(before, module.policy.parameters(), strict=True)
    )


def test_the_losses_own_beta_is_not_the_experiments():
    """`experiment=smoke` sets `algorithm.kl_coef` after the word has: β of a loss stays its own."""
    cfg = composed("algorithm=sppo", "experiment=smoke")
    assert cfg.algorithm.kl_coef == 0.1 and cfg.objective.loss.beta == 1e-3
    assert composed("algorithm=dpo", "objective.loss.beta=0.3").objective.loss.beta == 0.3


def test_five_responses_unless_the_experiment_says_otherwise():
    assert composed("algorithm=gpo").rollout.group_size == 5
    assert composed("algorithm=gpo", "experiment=smoke").rollout.group_size == 4


def test_a_file_of_pairs_by_one_option():
    cfg = composed("algorithm=simpo", "objective.pairs=file", "data.prompts_per_step=3")
    module = stepped_by_hand(instantiate(cfg.objective)(tiny_parts(validate(cfg))))
    batch = next(iter(module.loader(0, 1)))
    assert sorted(set(batch.rollout.responses)) == ["no", "so ", "so so ", "so so so so "]
    assert module.training_step(batch, 0)[ITERATION].signal
