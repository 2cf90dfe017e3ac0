"""Where the pairs of an iteration come from: sampled groups, or a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import perf_counter as now
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.config import AlgorithmConfig
from gprl_lightning.core.batch import Prompt, PromptBatch, Rollout, ScoredRollout
from gprl_lightning.core.drift import DriftControl
from gprl_lightning.core.game_gains import GameGains
from gprl_lightning.core.iteration import GroupResult
from gprl_lightning.data.prompts import PromptLoader
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.preference_source import PreferenceSource
from gprl_lightning.modules.labelled_pairs import (
    LabelledPairs,
    pair_parts,
    pairs_of_groups,
    pairs_of_texts,
)
from gprl_lightning.modules.pair_options import PairOptions
from gprl_lightning.modules.parts import Parts, encode
from gprl_lightning.modules.rollout_logprobs import logprobs_of
from gprl_lightning.modules.scoring import embed_groups, groups_of
from gprl_lightning.rollout.ahead import next_rollout
from gprl_lightning.runtime.processes import sum_over_processes


@torch.no_grad()
def drawn_pairs(
    parts: Parts, options: PairOptions, player: Policy, batch: PromptBatch | LabelledPairs
) -> tuple[LabelledPairs, GroupResult | None, float]:
    """Return the pairs of an iteration, the groups that they are of, and the seconds of sampling.

    Each is the best and the worst of its prompt's group, drawn by ``player``; a file's are what the
    loader has given, and of no group.
    """
    if isinstance(batch, LabelledPairs):
        return batch, None, 0.0
    started = now()
    rollout = next_rollout(parts.sampler, player, batch, parts.sampling, parts.config.seed)
    seconds = now() - started
    group = scored_groups(parts.source, options, rollout)
    return pairs_of_groups(rollout, group.scored.advantages), group, seconds


def scored_groups(source: PreferenceSource, options: PairOptions, rollout: Rollout) -> GroupResult:
    """Return the groups, with the gains of each response in the place of advantages.

    ``ref_logprobs`` are the sampler's own if the reference has sampled, else NaN: the update asks
    the reference for those of the pairs alone. The control is one at rest, without a β.
    """
    reference = rollout.old_logprobs
    if options.player == "policy":
        reference = torch.full_like(reference, torch.nan)
    control = DriftControl(torch.ones(len(source.axes)).double(), 0.0)
    embeddings, _ = embed_groups(source, rollout, None)
    groups = groups_of(rollout, embeddings, reference, control, source.tau)
    rule = GameGains(options.gain)
    scored = ScoredRollout(
        rollout=rollout,
        axes=source.axes,
        rule=rule,
        groups=groups,
        state={},
        result=rule(groups, {}, sum_over_processes),
        ref_logprobs=reference,
        importance=torch.ones_like(reference),
        anchored_scores=None,
    )
    return GroupResult(scored, None, control)


@torch.no_grad()
def reference_sums(
    reference: FrozenModel[Policy] | None, pairs: LabelledPairs, algorithm: AlgorithmConfig
) -> Float[Tensor, "pairs 2"]:
    """Return log π_ref of each whole response, in nats; 0 without a reference."""
    if reference is None:
        return torch.zeros_like(pairs.gains)
    every = torch.arange(len(pairs), device=pairs.rows.device)
    parts = [pairs.rows[part].flatten() for part in pair_parts(pairs, every, algorithm)]
    return logprobs_of(reference, pairs.rollout, parts).sum(1)[pairs.rows]


def pair_loader(parts: Parts, options: PairOptions, rank: int, world_size: int) -> Iterable[Any]:
    """Return one process's loader: of prompts, or of the file's pairs, shuffled alike.

    Raises:
        ConfigError: fewer prompts or pairs than one iteration takes; or a reference that samples
            through an engine, which holds the policy's weights.
    """
    config = parts.config
    if options.pairs == "sampled":
        if options.player == "reference" and parts.sampler.own_weights:
            raise ConfigError(
                "rollout.sampler: expected one that reads a model's own tensors with "
                f"objective.player=reference; found {type(parts.sampler).__name__}, which holds "
                "the policy's weights. Choose rollout=native, or objective.player=policy."
            )
        return parts.prompt_loader(rank, world_size)
    pairs, _ = parts.pairs

    def encoded(iteration: int, prompts: Sequence[Prompt]) -> Any:
        batch = encode(parts.policy, config.data.max_prompt_tokens, iteration, prompts)
        chosen = [pairs[prompt.uid] for prompt in prompts]
        return pairs_of_texts(parts.policy, batch, chosen, config.rollout.max_new_tokens)

    return PromptLoader(
        [Prompt(i, pair.prompt) for i, pair in enumerate(pairs)],
        encode=encoded,
        prompts_per_step=config.data.prompts_per_step,
        iterations=config.iterations,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
    )
