"""A scored rollout of all that trips up masks: its gradients must not depend on the layout."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gprl_lightning.core.advantage_rule import Advantages, ScoredGroups
from gprl_lightning.core.batch import Rollout, ScoredRollout
from gprl_lightning.core.gprl_advantages import GPRLAdvantages
from gprl_lightning.models.policy import Policy
from tests.tiny import END_OF_TURN, EOS, PAD, tiny_prompts

SIZE = 3
# One holds the pad id, one the EOS.
PROMPTS = ["hi", "how are you, my friend?", "a<pad>b<pad>", "x<eos>y"]
# Both end tokens; cut ones; the pad id inside; and an empty answer: an EOS at once.
RESPONSES = [
    [10, 11, 12, 13, 14, 15, 16, 17],
    [EOS],
    [20, 21, END_OF_TURN],
    [30, PAD, PAD, 31, EOS],
    [40],
    [END_OF_TURN],
    [50, 51, 52, 53, 54, 55, EOS],
    [PAD],
    [PAD, EOS],
    [60, 61],
    [EOS],
    [62, 63, 64, 65, 66, 67, 68, END_OF_TURN],
]
MAX_TOKENS = 8


def edge_rollout(policy: Policy) -> ScoredRollout:
    """Four groups of three; advantages, old and reference log-probabilities at random."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([len(r) for r in RESPONSES])
    mask = torch.arange(MAX_TOKENS) < lengths[:, None]
    ids = torch.full(mask.shape, policy.pad_id)
    ids[mask] = torch.tensor([token for r in RESPONSES for token in r])
    prompts = tiny_prompts(policy, PROMPTS)
    finished = torch.tensor([r[-1] in (EOS, END_OF_TURN) for r in RESPONSES])

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = len(RESPONSES)
    with torch.no_grad():
        logprobs, _ = policy(*_inputs(prompts, ids, mask))
    old = logprobs + 0.2 * noise(rows, MAX_TOKENS)
    rollout = Rollout(prompts, SIZE, ids, mask, old, finished, ("",) * rows, old, None)
    groups = ScoredGroups(
        vectors=noise(4, SIZE, 3, 2),
        eigenvalues=noise(4, 3),
        multipliers=torch.ones(3),
        kl_coef=0.1,
        tau=1.0,
        logprobs=noise(4, SIZE),
        ref_logprobs=noise(4, SIZE),
        lengths=lengths.view(4, SIZE),
        finished=finished.view(4, SIZE),
        uids=prompts.uids,
        iteration=prompts.iteration,
    )
    return ScoredRollout(
        rollout=rollout,
        axes=("0", "1", "2"),
        rule=GPRLAdvantages(),
        groups=groups,
        state={},
        result=Advantages(noise(4, SIZE, 3), noise(4, SIZE, 3), noise(4, SIZE), {}),
        ref_logprobs=logprobs + 0.2 * noise(rows, MAX_TOKENS),
        importance=noise(rows, MAX_TOKENS).exp(),
        anchored_scores=None,
    )


def _inputs(prompts, ids, mask) -> tuple[Tensor, ...]:
    group = torch.arange(len(ids)) // SIZE
    return prompts.input_ids[group], prompts.mask[group], ids, mask


def padded(scored: ScoredRollout, left: int, right: int, behind: int, fill: int) -> ScoredRollout:
    """The same with more padding: around the prompts, and behind the responses."""
    rollout, prompts = scored.rollout, scored.rollout.prompts
    pad = torch.nn.functional.pad
    prompts = replace(
        prompts,
        input_ids=pad(prompts.input_ids, (left, right), value=fill),
        mask=pad(prompts.mask, (left, right)),
    )
    rollout = replace(
        rollout,
        prompts=prompts,
        response_ids=pad(rollout.response_ids, (0, behind), value=fill),
        response_mask=pad(rollout.response_mask, (0, behind)),
        old_logprobs=pad(rollout.old_logprobs, (0, behind), value=float("nan")),
        sampler_logprobs=pad(rollout.sampler_logprobs, (0, behind), value=float("nan")),
    )
    reference = pad(scored.ref_logprobs, (0, behind), value=float("nan"))
    importance = pad(scored.importance, (0, behind), value=1.0)
    return replace(scored, rollout=rollout, ref_logprobs=reference, importance=importance)
