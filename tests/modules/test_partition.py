"""One iteration gives one gradient, however its rows are split, ordered, padded or spread.

Relative to the norm of the whole gradient, within 1e-9 in float64 and 1e-5 in float32.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gprl_lightning.models.policy import Policy
from gprl_lightning.modules.statistics import UpdateStatistics
from tests.modules.edge_rollout import MAX_TOKENS, RESPONSES, SIZE, edge_rollout, padded
from tests.processes import run_world
from tests.tiny import ARCHITECTURES, EOS, exact, tiny_model, tiny_tokenizer
from tests.worlds import tiny_module

ROWS = len(RESPONSES)
AGGREGATIONS = ("dr_grpo", "dapo", "grpo")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
EVERYTHING = torch.arange(ROWS)


def module_of(dtype=torch.float64, architecture="llama", pad="<pad>", **algorithm):
    model = exact(tiny_model(architecture), dtype)
    module = tiny_module(
        policy=Policy(model, tiny_tokenizer(pad)), max_grad_norm=1e9, kl_coef=0.3, **algorithm
    )
    module.sampling = replace(module.sampling, max_new_tokens=MAX_TOKENS)
    module.manual_backward = lambda loss: loss.backward()
    return module


def gradient(module, scored, rows=EVERYTHING, micro_batch_size=None) -> Tensor:
    module.algorithm.micro_batch_size = micro_batch_size
    module.policy.zero_grad()
    module._backward(scored, rows, UpdateStatistics())
    grads = [p.grad for p in module.policy.parameters() if p.grad is not None]
    return torch.cat([g.flatten() for g in grads]).double()


def distance(found: Tensor, expected: Tensor) -> float:
    assert expected.norm() > 1e-3
    return float((found - expected).norm() / expected.norm())


def by_hand(module, scored) -> Tensor:
    """The loss of METHOD §2 row by row: each alone, unpadded, from the model's own logits."""
    cfg, rollout, model = module.algorithm, scored.rollout, module.policy.causal_lm
    module.policy.zero_grad()
    tokens = sum(len(r) for r in RESPONSES)
    for row, response in enumerate(RESPONSES):
        prompt = rollout.prompts.input_ids[row // SIZE][rollout.prompts.mask[row // SIZE]]
        ids = torch.cat([prompt, torch.tensor(response)])
        logits = model(ids[None]).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(logits.double(), -1)
        logprobs = logprobs.gather(1, torch.tensor(response)[:, None])[:, 0]
        old, ref = (
            values[row, : len(response)] for values in (rollout.old_logprobs, scored.ref_logprobs)
        )
        ratio = (logprobs - old).exp()
        advantage = scored.advantages.flatten()[row]
        clipped = ratio.clamp(1 - cfg.clip_epsilon, 1 + cfg.clip_epsilon)
        surrogate = -torch.minimum(ratio * advantage, clipped * advantage)
        surrogate = scored.importance[row, : len(response)] * surrogate
        kl = (ref - logprobs).exp() - (ref - logprobs) - 1
        weight = {
            "dr_grpo": 1 / (ROWS * MAX_TOKENS),
            "dapo": 1 / tokens,
            "grpo": 1 / (ROWS * len(response)),
        }[cfg.loss_aggregation]
        (weight * (surrogate + cfg.kl_coef * kl).sum()).backward()
    grads = [p.grad for p in module.policy.parameters() if p.grad is not None]
    return torch.cat([g.flatten() for g in grads]).double()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_micro_batches_and_row_order(dtype, aggregation):
    module = module_of(dtype, loss_aggregation=aggregation)
    scored = edge_rollout(module.policy)
    expected = gradient(module, scored)
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 3, 4, 5, 6, 12):
        order = torch.randperm(ROWS, generator=generator)
        for rows in (EVERYTHING, order):
            found = gradient(module, scored, rows, size)
            assert distance(found, expected) <= TOLERANCE[dtype], (size, rows)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_padding_on_any_side_of_any_width_and_kind(dtype, aggregation):
    """The filler is a real token, the EOS, or the pad id; outside the masks stand NaNs."""
    module = module_of(dtype, loss_aggregation=aggregation)
    scored = edge_rollout(module.policy)
    expected = gradient(module, scored)
    for left, right, behind, fill in ((5, 0, 0, 3), (0, 4, 0, EOS), (2, 3, 6, 33), (0, 0, 1, EOS)):
        found = gradient(module, padded(scored, left, right, behind, fill), micro_batch_size=5)
        assert distance(found, expected) <= TOLERANCE[dtype], (left, right, behind)


@pytest.mark.parametrize("pad", ["<pad>", "<eos>"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_against_each_row_alone_without_padding(architecture, pad):
    """Pad = EOS, several EOS ids, prompts with the pad id inside, one token, an empty response."""
    for aggregation in AGGREGATIONS:
        module = module_of(architecture=architecture, pad=pad, loss_aggregation=aggregation)
        assert len(module.policy.eos_ids) == 2
        assert (module.policy.pad_id == EOS) == (pad == "<eos>")
        scored = edge_rollout(module.policy)
        expected = by_hand(module, scored)
        # Gemma 2 takes its attention's softmax in float32, whatever the weights are.
        tolerance = 1e-6 if architecture == "gemma2" else 1e-9
        assert distance(gradient(module, scored, micro_batch_size=4), expected) <= tolerance


def test_float32_against_each_row_alone():
    module = module_of(torch.float32)
    scored = edge_rollout(module.policy)
    expected = by_hand(module, scored)
    assert distance(gradient(module, scored, micro_batch_size=4), expected) <= 1e-5


@pytest.mark.long
def test_every_split_over_two_processes(tmp_path):
    """Even, uneven, one row against all the others; each with other micro-batches on each rank."""
    script = Path(__file__).with_name("run_partition.py")
    run_world([str(script), str(tmp_path)], 2, tmp_path)
    for rank in (0, 1):
        errors = torch.load(tmp_path / f"errors{rank}.pt")
        assert len(errors) == 2 * len(AGGREGATIONS) * 5
        for (dtype, *case), error in errors.items():
            assert error <= TOLERANCE[getattr(torch, dtype)], (dtype, *case)
