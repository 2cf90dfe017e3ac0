"""The χ² penalty in the module's loss: its size by loops, any split, and refused where unread."""

from __future__ import annotations

import math

import pytest
import torch

from gprl_lightning.config import AlgorithmConfig
from gprl_lightning.config.validation import validate
from gprl_lightning.errors import ConfigError
from gprl_lightning.modules.chi_squared import chi2_weight
from gprl_lightning.modules.minibatch_loss import MinibatchLoss, minibatch_sizes
from gprl_lightning.modules.pair_options import refuse_online_options
from tests.composing import composed
from tests.core.test_chi_squared import looped
from tests.modules.test_partition import distance
from tests.modules.test_policy_loss import ROWS, backward, moved
from tests.worlds import TOKENS, scored_rollout


def moved_from_reference(**options):
    """A rollout of a policy that has left its reference, so that χ² is not 0, and moved again."""
    module, _ = moved(torch.float64, size=0.2)
    module.algorithm = AlgorithmConfig(kl_coef=0.1, **options)

    return module, scored_rollout(module)


def test_the_loss_has_the_root_s_gradient_weight_times_every_response_s_term():
    module, scored = moved_from_reference(chi2_coef=0.3)
    batch = scored.rows(ROWS)
    sizes = minibatch_sizes(batch.response_mask.sum(1))
    weight = chi2_weight(0.3, scored.groups)
    with_it, without = (
        MinibatchLoss(module.policy_loss, 0.1, module.algorithm, TOKENS, w)(
            module.policy, batch, sizes
        )
        for w in (weight, 0.0)
    )
    mask = batch.response_mask.tolist()
    ratios = [
        math.fsum(a - b for a, b, m in zip(*row, strict=True) if m)
        for row in zip(with_it.logprobs.tolist(), batch.ref_logprobs.tolist(), mask, strict=True)
    ]
    terms = [looped(ratio) for ratio in ratios]
    mean = math.fsum(terms) / len(terms)  # π_θ is still π_old
    assert mean > 1e-3
    assert weight == pytest.approx(0.3 / (2 * math.sqrt(mean)), rel=1e-6)
    expected = weight * math.fsum(terms) / (len(terms) * TOKENS)
    assert (with_it.loss - without.loss).item() == pytest.approx(expected, rel=1e-6)


def test_any_split_has_the_same_gradient_and_the_coefficient_is_alive():
    module, scored = moved_from_reference()
    found = []
    for options in ({}, {"chi2_coef": 0.3}, {"chi2_coef": 0.3, "micro_batch_size": 5}):
        module.algorithm = AlgorithmConfig(kl_coef=0.1, **options)
        found.append(backward(module, scored)[0])
    off, whole, split = found
    assert distance(split, whole) < 1e-6  # the norms of the tiny Llama compute in float32
    assert (whole - off).norm() > 1e-3 * off.norm()


def test_without_a_coefficient_nothing_is_computed():
    assert chi2_weight(0.0, None) == 0.0


def test_the_word_and_its_refusals():
    config = validate(composed("ablation=grpo_bt_chi2", "experiment=study"))
    assert (config.algorithm.kl_coef, config.algorithm.chi2_coef) == (0.0, 0.03)
    with pytest.raises(ConfigError, match=r"algorithm\.chi2_coef"):
        validate(composed("algorithm.chi2_coef=-1"))
    pairs = validate(composed("algorithm=dpo", "algorithm.chi2_coef=0.1"))
    with pytest.raises(ConfigError, match=r"algorithm\.chi2_coef=0\.1: expected 0\.0"):
        refuse_online_options(pairs)
