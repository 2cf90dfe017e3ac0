"""Where the pairs of an iteration come from: sampled groups, or a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.config import AlgorithmConfig
from gprl_lightning.core.batch import Prompt, PromptBatch
from gprl_lightning.core.game_gains import game_gains
from gprl_lightning.core.preference import pairwise_scores, total_scores
from gprl_lightning.data.prompts import PromptLoader
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.models.policy import Policy
from gprl_lightning.modules.labelled_pairs import (
    LabelledPairs,
    pair_parts,
    pairs_of_groups,
    pairs_of_texts,
)
from gprl_lightning.modules.pair_options import PairOptions
from gprl_lightning.modules.parts import Parts, encode
from gprl_lightning.modules.rollout_logprobs import logprobs_of
from gprl_lightning.rollout.ahead import next_rollout


@torch.no_grad()
def sampled_pairs(
    parts: Parts, options: PairOptions, player: Policy, prompts: PromptBatch
) -> LabelledPairs:
    """Return the best and the worst of each prompt's group, drawn by ``player``."""
    rollout = next_rollout(parts.sampler, player, prompts, parts.sampling, parts.config.seed)
    responses = rollout.grouped_responses()
    found = parts.source.embed(prompts.messages, responses, prompts.columns)
    found = found.to(rollout.response_ids.device)
    scores = total_scores(pairwise_scores(found.vectors), found.eigenvalues[:, None, None])
    return pairs_of_groups(rollout, game_gains(scores / parts.source.tau, options.gain))


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
        ConfigError: fewer prompts or pairs than one iteration takes, or samples of old weights.
    """
    config = parts.config
    if options.pairs == "sampled":
        if config.rollout.staleness:
            raise ConfigError(
                f"rollout.staleness={config.rollout.staleness}: expected 0 with an objective on "
                "pairs, whose reference may be the one that samples. Set rollout.staleness=0."
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
