"""What one RL iteration passes along: PromptBatch → Rollout → ScoredRollout → Minibatch.

Each stage is a frozen, fully filled record: a half-built batch cannot be written down. Masks are
built when the tokens are, never inferred from pad ids (which may equal EOS, or stand inside a
prompt). Rollouts are group-major: rollout ``r`` answers prompt ``r // group_size``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Message(TypedDict):
    """One chat message: role is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


Messages = tuple[Message, ...]


class _Transferable:
    """Move every tensor of a record; Lightning calls this on each batch."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        moved = {k: v.to(*args, **kwargs) for k, v in moved.items() if hasattr(v, "to")}
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class Prompt:
    """A prompt and its stable number (the row in its file)."""

    uid: int
    messages: Messages


@dataclass(frozen=True)
class PromptBatch(_Transferable):
    """The prompts of one RL iteration, left-padded for generation.

    Attributes:
        iteration: the RL iteration that this batch is for; with ``uids`` it keys the sampler's
            randomness.
        uids: a stable number for each prompt (its row in the data set).
        messages: the chat messages of each prompt, for the preference model, which has its own
            tokenizer.
        input_ids: the prompts in the policy's tokens, left-padded.
        mask: True on real tokens.
    """

    iteration: int
    uids: Int[Tensor, " groups"]
    messages: tuple[Messages, ...]
    input_ids: Int[Tensor, "groups prompt_tokens"]
    mask: Bool[Tensor, "groups prompt_tokens"]

    def __len__(self) -> int:
        return self.input_ids.shape[0]


@dataclass(frozen=True)
class Rollout(_Transferable):
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

    def grouped_responses(self) -> list[list[str]]:
        """The responses of each prompt: ``groups`` lists of ``group_size`` strings."""
        size = self.group_size
        return [list(self.responses[i : i + size]) for i in range(0, len(self.responses), size)]


@dataclass(frozen=True)
class ScoredRollout(_Transferable):
    """A rollout with all that the update needs: scores, advantages and reference
    log-probabilities.

    Attributes:
        anchored_scores: mean score of a prompt's responses against its anchor, for the drift
            monitor; None without anchors.
        importance: weight of each token's policy term, `core.importance`; 1: nothing to correct.
    """

    rollout: Rollout
    vectors: Float[Tensor, "groups size two_axes"]
    eigenvalues: Float[Tensor, "groups axes"]
    group_scores: Float[Tensor, "groups size axes"]
    axis_advantages: Float[Tensor, "groups size axes"]
    advantages: Float[Tensor, "groups size"]
    ref_logprobs: Float[Tensor, "rollouts tokens"]
    importance: Float[Tensor, "rollouts tokens"]
    anchored_scores: Float[Tensor, "groups axes"] | None

    def rows(self, index: Int[Tensor, " rows"]) -> Minibatch:
        """The rollouts at ``index`` as one batch for a forward and a backward pass."""
        rollout, prompts = self.rollout, self.rollout.prompts
        group = index // rollout.group_size
        return Minibatch(
            prompt_ids=prompts.input_ids[group],
            prompt_mask=prompts.mask[group],
            response_ids=rollout.response_ids[index],
            response_mask=rollout.response_mask[index],
            old_logprobs=rollout.old_logprobs[index],
            ref_logprobs=self.ref_logprobs[index],
            advantages=self.advantages.flatten()[index],
            importance=self.importance[index],
        )


@dataclass(frozen=True)
class Minibatch(_Transferable):
    """Some rollouts of an iteration, each with its own prompt: any subset, in any order."""

    prompt_ids: Int[Tensor, "rows prompt_tokens"]
    prompt_mask: Bool[Tensor, "rows prompt_tokens"]
    response_ids: Int[Tensor, "rows tokens"]
    response_mask: Bool[Tensor, "rows tokens"]
    old_logprobs: Float[Tensor, "rows tokens"]
    ref_logprobs: Float[Tensor, "rows tokens"]
    advantages: Float[Tensor, " rows"]
    importance: Float[Tensor, "rows tokens"]


def split_rows(rows: int, parts: int, order: Int[Tensor, " rows"] | None = None) -> list[Tensor]:
    """Row indices in ``parts`` nearly equal pieces, in the given order (default: as they stand)."""
    index = torch.arange(rows) if order is None else order
    return [piece for piece in torch.tensor_split(index, parts) if len(piece)]
