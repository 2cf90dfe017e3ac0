"""Best-of-n by a preference source on the starting policy: ``task=best_of_n``.

Gao's other axis of over-optimisation: no training, the pressure is n. N answers to each held-out
prompt are sampled once; the source says which is best, the judge what that is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from gprl_lightning.callbacks.evaluation import BASELINE_SEED, EVALUATION_SEED
from gprl_lightning.config import Config
from gprl_lightning.core.batch import Prompt
from gprl_lightning.core.preference import group_scores, total_scores
from gprl_lightning.errors import ConfigError
from gprl_lightning.evaluation.best_of_n import BestOf, best_of_n, write_curve
from gprl_lightning.evaluation.judge import Judge, SourceJudge
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.policy import Policy, load_policy
from gprl_lightning.models.preference_source import PreferenceSource
from gprl_lightning.models.prompt_lengths import require_room
from gprl_lightning.models.reading_checks import require_readable
from gprl_lightning.modules.parts import encode
from gprl_lightning.modules.scoring import embed_groups
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.runtime.preparation import prepare
from gprl_lightning.tasks.build import build_parts, build_prompts, sampling
from gprl_lightning.tasks.evaluation import build_judges
from gprl_lightning.tasks.train_preference_model import default_device
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.run_folder import begin, write_summary

Array = NDArray[np.float64]


def best_of_n_by_source(config: Config, cfg: DictConfig, folder: Path) -> float:
    """Write what the best of n by ``preference_model`` is worth. Return it for the largest n.

    An answer's quality is its mean score against the N − 1 others to its prompt, over all axes:
    for a reward the order is the reward's; a source that only compares has no other quality, and
    its best of n is chosen by what all N say of it (ours).

    Raises:
        ConfigError: no judge besides the reward.
    """
    prepare(config)
    judges = build_judges(config)
    if not judges:
        raise ConfigError(
            f"evaluation.judge={config.evaluation.judge}: expected a judge besides the reward with "
            "task=best_of_n, which asks what the reward's choice is worth. Set "
            "evaluation.judge=sandbox_gold, model or endpoint."
        )
    name, judge = next(iter(judges.items()))
    policy = starting_policy(config).to(default_device())
    train, held_out = build_prompts(config)
    prompts = held_out[: config.evaluation.prompts]
    require_room(prompts, policy, config.data.max_prompt_tokens, config.rollout.max_new_tokens)
    source = build_parts(config, cfg, policy, train).source
    require_readable(policy, source, prompts)
    for one in (source, judge.source if isinstance(judge, SourceJudge) else None):
        if isinstance(one, nn.Module):
            one.to(default_device()).requires_grad_(False)
    begin(cfg, folder)
    quality, outcome = judged_answers(config, policy, source, judge, prompts)
    curve = best_of_n(quality, outcome, config.best_of_n.sizes)
    finish(config, curve, name, folder)
    return curve[-1].gold.mean


def starting_policy(config: Config) -> Policy:
    """Return the policy as training would start it."""
    path = policy_folder(config.policy.path, config.paths.cache)
    return load_policy(config.policy, path, config.rollout.temperature)


@torch.no_grad()
def judged_answers(
    config: Config,
    policy: Policy,
    source: PreferenceSource,
    judge: Judge,
    prompts: Sequence[Prompt],
) -> tuple[Array, Array]:
    """Return quality and outcome [prompts, N] of the answers to all prompts that the judge decided.

    Raises:
        ConfigError: no prompt is left.
    """
    options = config.best_of_n
    drawn = replace(sampling(config.rollout), temperature=config.evaluation.temperature)
    sampler = NativeSampler()
    rows: list[tuple[list[float], list[float]]] = []
    for part in batches(config, prompts):
        batch = encode(policy, config.data.max_prompt_tokens, 0, part)
        batch = batch.to(next(policy.parameters()).device)
        many, few = (
            sampler.sample(policy, batch, replace(drawn, group_size=size), config.seed + seed)
            for size, seed in (
                (options.samples, EVALUATION_SEED),
                (options.opponents, BASELINE_SEED),
            )
        )
        found, _ = embed_groups(source, many, None)
        quality = qualities(found.vectors, found.eigenvalues, source.tau)
        groups = zip(part, many.grouped_responses(), few.grouped_responses(), strict=True)
        for row, (prompt, answers, others) in zip(quality.tolist(), groups, strict=True):
            wins = outcomes(judge, prompt, answers, others)
            if wins is not None:
                rows.append((row, wins))
    if len(rows) < len(prompts):
        print(f"best_of_n: {len(prompts) - len(rows)} prompts without a verdict on each answer.")
    if not rows:
        raise ConfigError(
            "evaluation.judge: expected a verdict on each answer to one prompt at least; found "
            "none. Choose another judge."
        )
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def batches(config: Config, prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    """Yield the prompts, so many at once as give ``evaluation.batch_size`` answers, or one."""
    rows = config.evaluation.batch_size or config.data.prompts_per_step * config.rollout.group_size
    step = max(1, rows // config.best_of_n.samples)
    for start in range(0, len(prompts), step):
        yield prompts[start : start + step]


def qualities(
    vectors: Float[Tensor, "groups size axes entries"],
    eigenvalues: Float[Tensor, "groups axes"],
    tau: float,
) -> Float[Tensor, "groups size"]:
    """Return each answer's mean logit against the others of its group, over all axes."""
    scores = group_scores(vectors.double())
    return total_scores(scores, eigenvalues.double()[:, None]) / tau


def outcomes(
    judge: Judge, prompt: Prompt, answers: Sequence[str], others: Sequence[str]
) -> list[float] | None:
    """Return each answer's win rate over the others; None if one of them got no verdict at all."""
    left = [answer for answer in answers for _ in others]
    verdicts = judge.prefer([prompt] * len(left), left, list(others) * len(answers))
    found: list[float] = []
    for i in range(len(answers)):
        own = [v for v in verdicts[i * len(others) : (i + 1) * len(others)] if v is not None]
        if not own:
            return None
        found.append(sum(own) / len(own))
    return found


def finish(config: Config, curve: Sequence[BestOf], judge: str, folder: Path) -> None:
    """Write table, picture and summary, and print the table."""
    model = config.preference_model
    title = f"{config.name}, seed {config.seed}: best of n by {model.kind}, judge {judge}"
    if model.source:
        title = f"{config.name}, seed {config.seed}: best of n by the reward, judge {judge}"
    files = {file.suffix[1:]: file for file in write_curve(curve, folder, title)}
    final = {f"best_of_n/{b.n}/win_rate": b.gold.mean for b in curve}
    write_summary(config, folder, {**final, metrics.EVAL_WIN_RATE: curve[-1].gold.mean}, files)
    table = Table(title=title)
    for column in ("n", "√KL", "win rate (95 %)", "quality"):
        table.add_column(column, justify="right")
    for b in curve:
        rate = f"{b.gold.mean:.3f} ({b.gold.low:.3f} to {b.gold.high:.3f})"
        table.add_row(str(b.n), f"{b.kl**0.5:.2f}", rate, f"{b.quality:.2f}")
    Console().print(table)
