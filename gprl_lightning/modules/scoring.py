"""From a rollout to what the advantage rule may read of it."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.advantage_rule import ScoredGroups
from gprl_lightning.core.batch import COMPLETION_IDS, Columns, Rollout
from gprl_lightning.core.drift import DriftControl
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.core.losses import zero_outside
from gprl_lightning.models.function_rewards import FunctionRewards
from gprl_lightning.models.preference_source import PreferenceSource


def embed_groups(
    source: PreferenceSource, rollout: Rollout, anchors: Sequence[str] | None
) -> tuple[Embeddings, Float[Tensor, "groups anchors axes entries"]]:
    """Return the embeddings of the responses, and the vectors of the anchors (none without them).

    Args:
        source: scores the groups.
        rollout: G responses to each prompt.
        anchors: one stored response of the starting policy to each prompt. It is embedded in one
            group with the responses, so that the prompt is read once for all.
    """
    prompts, groups = rollout.prompts, rollout.grouped_responses()
    if anchors is not None:
        groups = [[*group, anchor] for group, anchor in zip(groups, anchors, strict=True)]
    functions = isinstance(source, FunctionRewards)  # which alone may ask for tokens
    columns = columns_with_ids(rollout) if functions else prompts.columns
    found = source.embed(prompts.messages, groups, columns)
    return found.to(rollout.response_ids.device).split(rollout.group_size)


def columns_with_ids(rollout: Rollout) -> list[Columns]:
    """Return each prompt's columns, and with them `COMPLETION_IDS`: the tokens of each response of
    its group as they were sampled, the EOS that ended it included."""
    lengths = rollout.response_mask.sum(1).tolist()
    rows = rollout.response_ids.tolist()
    ids = [row[:n] for row, n in zip(rows, lengths, strict=True)]
    size = rollout.group_size
    groups = [ids[i : i + size] for i in range(0, len(ids), size)]
    columns: Sequence[Columns] = rollout.prompts.columns or [{} for _ in groups]
    return [{**row, COMPLETION_IDS: g} for row, g in zip(columns, groups, strict=True)]


def groups_of(
    rollout: Rollout,
    embeddings: Embeddings,
    ref_logprobs: Float[Tensor, "rollouts tokens"],
    control: DriftControl,
    tau: float,
) -> ScoredGroups:
    """Return all that a rule may read: log-probabilities of whole responses, in nats."""
    shape = len(rollout.prompts), rollout.group_size
    mask = rollout.response_mask

    def whole(logprobs: Tensor) -> Tensor:
        return zero_outside(mask, logprobs).double().sum(1).view(shape)

    return ScoredGroups(
        vectors=embeddings.vectors,
        eigenvalues=embeddings.eigenvalues,
        multipliers=control.axis_multipliers,
        kl_coef=control.kl_coef,
        tau=tau,
        logprobs=whole(rollout.old_logprobs),
        ref_logprobs=whole(ref_logprobs),
        lengths=mask.sum(1).view(shape),
        finished=rollout.finished.view(shape),
        uids=rollout.prompts.uids,
        iteration=rollout.prompts.iteration,
    )
