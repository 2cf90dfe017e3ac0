"""What one RL iteration passes along: PromptBatch → Rollout → ScoredRollout → Minibatch.

Each stage is a frozen, fully filled record: a half-built batch cannot be written down. Masks are
built when the tokens are, never inferred from pad ids (which may equal EOS, or stand inside a
prompt). Rollouts are group-major: rollout ``r`` answers prompt ``r // group_size``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gprl_lightning.core.advantage_rule import AdvantageRule, Advantages, ScoredGroups, State
from gprl_lightning.core.host_tokens import HostTokens
from gprl_lightning.core.records import TensorRecord
from gprl_lightning.core.transfers import sent


class Message(TypedDict):
    """One chat message: role is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


Messages = tuple[Message, ...]
Columns = Mapping[str, object]  # a data row's other values, by column
COMPLETION_IDS = "completion_ids"  # a column of our own: a group's responses in the policy's tokens


@dataclass(frozen=True)
class Prompt:
    """One prompt of the data.

    Attributes:
        uid: its stable number, the row in its file.
        messages: the conversation that is to be answered.
        columns: the row's values by column; ``prompt`` is the prompt as it stands in the file.
    """

    uid: int
    messages: Messages
    columns: Columns = field(default_factory=dict[str, object])


@dataclass(frozen=True)
class PromptBatch(TensorRecord):
    """The prompts of one RL iteration, left-padded for generation.

    Attributes:
        iteration: the RL iteration that this batch is for; with ``uids`` it keys the sampler's
            randomness.
        uids: a stable number for each prompt (its row in the data set).
        messages: the chat messages of each prompt, for the preference model, which has its own
            tokenizer.
        input_ids: the prompts in the policy's tokens, left-padded.
        mask: True on real tokens.
        columns: what else each prompt's row holds, for preference sources and judges.
    """

    iteration: int
    uids: Int[Tensor, " groups"]
    messages: tuple[Messages, ...]
    input_ids: Int[Tensor, "groups prompt_tokens"]
    mask: Bool[Tensor, "groups prompt_tokens"]
    columns: tuple[Columns, ...] = ()

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def host(self) -> PromptBatch:
        """The same on the host; where it came from there, at no cost."""
        if self.input_ids.device.type == "cpu":
            return self
        if "host_copy" not in vars(self):
            vars(self)["host_copy"] = self.on_host()
        return vars(self)["host_copy"]

    def to(self, *args: Any, **kwargs: Any) -> PromptBatch:
        """Return a copy elsewhere, which remembers what the host has of it."""
        moved = super().to(*args, **kwargs)
        if moved.input_ids.device.type != "cpu":
            vars(moved)["host_copy"] = self.host
        return moved


@dataclass(frozen=True)
class Rollout(TensorRecord):
    """``group_size`` sampled responses for each prompt, right-padded.

    Attributes:
        prompts: what was asked.
        group_size: G, responses for each prompt.
        response_ids: sampled tokens; the EOS that ended a response is part of it.
        response_mask: True on sampled tokens (EOS included), False after.
        old_logprobs: log π_old of each sampled token under the sampling temperature (0 outside the
            mask).
        finished: True where the response ended by itself, False where it was truncated.
        responses: the decoded responses, without special tokens.
        sampler_logprobs: the same as the sampler reports it. It makes both equal; the update may
            then replace ``old_logprobs`` by the policy's own.
        version: how many iterations the weights that made it had learnt from; None: the sampler
            read the policy's own tensors.
    """

    prompts: PromptBatch
    group_size: int
    response_ids: Int[Tensor, "rollouts tokens"]
    response_mask: Bool[Tensor, "rollouts tokens"]
    old_logprobs: Float[Tensor, "rollouts tokens"]
    finished: Bool[Tensor, " rollouts"]
    responses: tuple[str, ...]
    sampler_logprobs: Float[Tensor, "rollouts tokens"]
    version: int | None

    @cached_property
    def lengths(self) -> Int[Tensor, " rollouts"]:
        """Each response's tokens, on the host."""
        return self.response_mask.sum(1).cpu()

    def with_lengths(self, lengths: Int[Tensor, " rollouts"]) -> Rollout:
        """Take `lengths` from one who knows them, which saves a wait for the device."""
        vars(self)["lengths"] = lengths
        return self

    def host_tokens(self, index: Int[Tensor, " rows"]) -> HostTokens:
        """Return what the host knows of the rollouts at ``index``."""
        index, prompts = index.cpu(), self.prompts.host
        group = index // self.group_size
        return HostTokens(prompts.input_ids[group], prompts.mask[group], self.lengths[index])

    def grouped_responses(self) -> list[list[str]]:
        """Return the responses of each prompt: ``groups`` lists of ``group_size`` strings."""
        size = self.group_size
        return [list(self.responses[i : i + size]) for i in range(0, len(self.responses), size)]


@dataclass(frozen=True)
class ScoredRollout(TensorRecord):
    """A rollout with all that the update needs: scores, advantages and reference
    log-probabilities.

    Attributes:
        axes: names of the preference source's axes.
        rule: the advantage rule.
        groups: what the rule was given.
        state: the state that it was given.
        result: what it returned.
        anchored_scores: mean score of a prompt's responses against its anchor, for the drift
            monitor; None without anchors.
        importance: weight of each token's policy term, `core.importance`; 1: nothing to correct.
    """

    rollout: Rollout
    axes: tuple[str, ...]
    rule: AdvantageRule
    groups: ScoredGroups
    state: State
    result: Advantages
    ref_logprobs: Float[Tensor, "rollouts tokens"]
    importance: Float[Tensor, "rollouts tokens"]
    anchored_scores: Float[Tensor, "groups axes"] | None

    @property
    def vectors(self) -> Float[Tensor, "groups size axes entries"]:
        return self.groups.vectors

    @property
    def eigenvalues(self) -> Float[Tensor, "groups axes"]:
        return self.groups.eigenvalues

    @property
    def group_scores(self) -> Float[Tensor, "groups size axes"]:
        return self.result.group_scores

    @property
    def axis_advantages(self) -> Float[Tensor, "groups size axes"]:
        return self.result.axis_advantages

    @property
    def advantages(self) -> Float[Tensor, "groups size"]:
        return self.result.advantages

    def rows(self, index: Int[Tensor, " rows"]) -> Minibatch:
        """Return the rollouts at ``index`` as one batch for a forward and a backward pass."""
        rollout, prompts = self.rollout, self.rollout.prompts
        known = rollout.host_tokens(index)
        index = sent(index, rollout.response_ids.device)
        group = index // rollout.group_size
        batch = Minibatch(
            prompt_ids=prompts.input_ids[group],
            prompt_mask=prompts.mask[group],
            response_ids=rollout.response_ids[index],
            response_mask=rollout.response_mask[index],
            old_logprobs=rollout.old_logprobs[index],
            ref_logprobs=self.ref_logprobs[index],
            advantages=self.advantages.flatten()[index],
            importance=self.importance[index],
        )
        vars(batch)["known"] = known
        return batch


@dataclass(frozen=True)
class Minibatch(TensorRecord):
    """Some rollouts of an iteration, each with its own prompt: any subset, in any order."""

    prompt_ids: Int[Tensor, "rows prompt_tokens"]
    prompt_mask: Bool[Tensor, "rows prompt_tokens"]
    response_ids: Int[Tensor, "rows tokens"]
    response_mask: Bool[Tensor, "rows tokens"]
    old_logprobs: Float[Tensor, "rows tokens"]
    ref_logprobs: Float[Tensor, "rows tokens"]
    advantages: Float[Tensor, " rows"]
    importance: Float[Tensor, "rows tokens"]

    @cached_property
    def known(self) -> HostTokens:
        """What the host knows of the rows."""
        return HostTokens.of(self.prompt_ids, self.prompt_mask, self.response_mask)

    @cached_property
    def places(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Row and column of every response token: ``response_mask.nonzero()``."""
        return self.known.places(self.response_ids.device)

    def between(self, first: int, last: int) -> Minibatch:
        """Return the rows from ``first`` up to, but not including, ``last``."""
        return replace(self, **{f.name: getattr(self, f.name)[first:last] for f in fields(self)})


def split_rows(rows: int, parts: int, order: Int[Tensor, " rows"] | None = None) -> list[Tensor]:
    """Return row indices in ``parts`` nearly equal pieces, in the given order (default: as they
    stand)."""
    index = torch.arange(rows) if order is None else order
    return [piece for piece in torch.tensor_split(index, parts) if len(piece)]
