"""Pairs of responses of which one is preferred, as two rows of a rollout: from groups or a file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gprl_lightning.config import AlgorithmConfig
from gprl_lightning.core.batch import PromptBatch, Rollout, split_rows
from gprl_lightning.core.game_gains import best_and_worst
from gprl_lightning.core.losses import zero_outside
from gprl_lightning.core.pair_losses import PairLogprobs
from gprl_lightning.data.preferences import PreferencePair
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.policy_tokens import text_tokens


@dataclass(frozen=True)
class LabelledPairs:
    """The pairs of one iteration.

    Attributes:
        rollout: holds their responses.
        rows: of the rollout, the chosen response and the rejected one.
        labels: probability that the chosen one is the better.
        gains: of each response, see `core.pair_losses.PairLogprobs`.
    """

    rollout: Rollout
    rows: Int[Tensor, "pairs 2"]
    labels: Float[Tensor, " pairs"]
    gains: Float[Tensor, "pairs 2"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def iteration(self) -> int:
        """The iteration that the pairs are for, 0-based."""
        return self.rollout.prompts.iteration

    def to(self, *args: Any, **kwargs: Any) -> LabelledPairs:
        """Move every tensor, as ``Tensor.to``; Lightning calls this on each batch."""
        names = ("rollout", "rows", "labels", "gains")
        return replace(self, **{name: getattr(self, name).to(*args, **kwargs) for name in names})


def pairs_of_groups(rollout: Rollout, gains: Float[Tensor, "groups size"]) -> LabelledPairs:
    """Return the best and the worst response of each group, with a label of 1, or ½ for a tie."""
    places = best_and_worst(gains)
    chosen = gains.gather(1, places)
    first = torch.arange(len(gains), device=gains.device)[:, None] * rollout.group_size
    labels = torch.where(chosen[:, 0] > chosen[:, 1], 1.0, 0.5)
    return LabelledPairs(rollout, first + places, labels, chosen)


def pairs_of_texts(
    policy: Policy, prompts: PromptBatch, pairs: Sequence[PreferencePair], max_tokens: int
) -> LabelledPairs:
    """Return written pairs in the policy's tokens, as a rollout of groups of two.

    An answer ends with the tokenizer's EOS; one of more than ``max_tokens`` tokens is cut, and then
    does not. Gains are the label less ½, and ½ less the label.

    Args:
        policy: has the tokenizer.
        prompts: of the pairs, in their order.
        pairs: one for each prompt.
        max_tokens: the longest answer.
    """
    answers = [answer for pair in pairs for answer in pair.answers]
    end = policy.tokenizer.eos_token_id
    end = policy.eos_ids[0] if end is None else end
    rows = [[*text_tokens(policy.tokenizer, text), end] for text in answers]
    lengths = torch.tensor([min(len(row), max_tokens) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), policy.pad_id)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    for place, (row, length) in enumerate(zip(rows, lengths.tolist(), strict=True)):
        ids[place, :length] = torch.tensor(row[:length])
    nothing = torch.zeros(ids.shape)
    rollout = Rollout(
        prompts=prompts,
        group_size=2,
        response_ids=ids,
        response_mask=mask,
        old_logprobs=nothing,
        sampler_logprobs=nothing,
        version=prompts.iteration,
        finished=torch.tensor([len(row) <= max_tokens for row in rows]),
        responses=tuple(answers),
    )
    labels = torch.tensor([pair.label for pair in pairs])
    gains = torch.stack([labels - 0.5, 0.5 - labels], 1)
    return LabelledPairs(rollout, torch.arange(len(rows)).view(-1, 2), labels, gains)


def pair_minibatches(
    pairs: LabelledPairs, algorithm: AlgorithmConfig, seed: int
) -> Iterator[Int[Tensor, " some"]]:
    """Yield each optimiser step's pairs: ``inner_epochs`` passes, by (seed, iteration) shuffled."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + 2 * pairs.iteration + 1)
    for _ in range(algorithm.inner_epochs):
        order = torch.randperm(len(pairs), generator=generator)
        yield from split_rows(len(pairs), algorithm.minibatches, order)


def pair_parts(
    pairs: LabelledPairs, index: Int[Tensor, " some"], algorithm: AlgorithmConfig
) -> list[Int[Tensor, " part"]]:
    """Return ``index`` in parts for one forward pass each, sorted by length, pairs kept whole.

    A part has at most ``algorithm.micro_batch_size`` responses and ``micro_batch_tokens`` tokens
    with padding (a single pair above a bound is a part).
    """
    rollout = pairs.rollout
    prompts = rollout.prompts.mask.sum(1)[pairs.rows[index, 0] // rollout.group_size]
    longest = rollout.response_mask.sum(1)[pairs.rows[index]].amax(1)
    order = longest.argsort(stable=True)
    most = max(1, (algorithm.micro_batch_size or 2 * len(index)) // 2)
    tokens = algorithm.micro_batch_tokens
    bound = tokens if isinstance(tokens, int) else math.inf
    parts: list[list[int]] = []
    width = 0
    for place, prompt, response in zip(
        index[order].tolist(), prompts[order].tolist(), longest[order].tolist(), strict=True
    ):
        width = max(width, prompt + response)
        if not parts or len(parts[-1]) == most or 2 * (len(parts[-1]) + 1) * width > bound:
            parts.append([])
            width = prompt + response
        parts[-1].append(place)
    return [torch.tensor(part, device=index.device) for part in parts]


def pair_logprobs(
    policy: Policy,
    pairs: LabelledPairs,
    part: Int[Tensor, " part"],
    ref_logprobs: Float[Tensor, "pairs 2"],
) -> tuple[PairLogprobs, Float[Tensor, ""]]:
    """Return what a loss may read of ``part``, with gradients, and the sum of its tokens' entropy.

    One forward pass over both responses of each pair.
    """
    rollout, rows = pairs.rollout, pairs.rows[part].flatten()
    prompts, group, mask = rollout.prompts, rows // rollout.group_size, rollout.response_mask[rows]
    logprobs, entropy = policy(
        prompts.input_ids[group], prompts.mask[group], rollout.response_ids[rows], mask
    )
    given = PairLogprobs(
        logprobs=zero_outside(mask, logprobs).sum(1).view(-1, 2),
        ref_logprobs=ref_logprobs[part],
        tokens=mask.sum(1).view(-1, 2),
        labels=pairs.labels[part],
        gains=pairs.gains[part],
    )
    return given, entropy.sum()
