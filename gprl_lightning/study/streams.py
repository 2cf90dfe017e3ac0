"""Streams of rollouts drawn from a pool: runs with a known ending, at the price of an index.

A healthy stream stands still or learns: its responses are drawn towards the better ones, at the
pace of a real run. An exploited one learns as well, until from an onset on a growing share of its
responses is replaced by their exploited versions. Everything a monitor may read of a step is in
`Evidence`, and so is the gold, which no monitor reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gprl_lightning.core.advantages import axis_std
from gprl_lightning.core.preference import axis_pairs, group_scores, scores_against
from gprl_lightning.study.pool import CLEAN, Measured, Pool, Version

LOST = 0.1  # of gold win rate: a run that falls so far below its best is a lossy one
CLIMB_STEPS = 40.0  # time constant of healthy learning, as in the sandbox's default run


@dataclass(frozen=True)
class Shape:
    """Length of a stream, size of its batches, and the step at which an exploit sets in."""

    steps: int = 140
    groups: int = 8
    group_size: int = 8
    onset: int = 40


@dataclass(frozen=True)
class Scenario:
    """What happens in a stream.

    Attributes:
        learning: how sharply responses are chosen by the gold's quality at the end of learning
            (κ, per standard deviation of quality); 0: none.
        version: the exploit; `CLEAN`: none.
        ramp: steps from the onset until every response is exploited.
        pushed_axes: on so many axes, drawn by the seed, the preference model also rewards the
            exploit for itself, as one with a spurious correlation would; 0: as the model is.
    """

    learning: float = 0.0
    version: Version = CLEAN
    ramp: int = 1
    pushed_axes: int = 0

    @property
    def healthy(self) -> bool:
        return self.version == CLEAN


@dataclass(frozen=True)
class Evidence:
    """A stream as its monitors see it, step by step; and its gold.

    Attributes:
        variance: E_x[std_l²] of the group scores.
        weighted_variance: E_x[λ_l² std_l²].
        anchored: E_x[mean_i s_l(y_i, y_base)].
        surprise: mean of -log π_ref over the tokens of a response, in nats per token.
        kl: to the reference, in nats per token.
        length: tokens per response.
        gold: win rate against the starting policy.
        disagreement: of an ensemble of preference models over pairs of a group's answers; None
            without an ensemble.
    """

    variance: Float[Tensor, "steps axes"]
    weighted_variance: Float[Tensor, "steps axes"]
    anchored: Float[Tensor, "steps axes"]
    surprise: Float[Tensor, " steps"]
    kl: Float[Tensor, " steps"]
    length: Float[Tensor, " steps"]
    gold: Float[Tensor, " steps"]
    disagreement: Float[Tensor, " steps"] | None = None


def draw(pool: Pool, scenario: Scenario, shape: Shape, seed: int) -> Evidence:
    """Return one stream, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    prompts, picked = _picked(pool.clean, scenario.learning, shape, generator)
    exploited = _exploited(scenario, shape, generator)
    batch = _batch(pool, scenario.version, prompts, picked, exploited)
    if scenario.pushed_axes:
        vectors = _pushed(batch.vectors, exploited, scenario, generator)
        batch = replace(batch, vectors=vectors)
    return _evidence(batch, pool.eigenvalues[prompts], pool.anchors[prompts], shape)


def _picked(
    clean: Measured, learning: float, shape: Shape, generator: torch.Generator
) -> tuple[Int[Tensor, " rows"], Int[Tensor, "rows size"]]:
    """The prompt of each group of each step, and its responses: by exp(κ · quality), each once."""
    available = len(clean.quality)
    orders = [
        torch.randperm(available, generator=generator)[: shape.groups] for _ in range(shape.steps)
    ]
    prompts = torch.cat(orders)
    step = torch.arange(shape.steps).repeat_interleave(shape.groups)
    kappa = learning * (1 - torch.exp(-step / CLIMB_STEPS))
    quality = clean.quality[prompts] / clean.quality.std()
    noise = torch.rand(quality.shape, generator=generator, dtype=torch.float64)
    keys = kappa[:, None] * quality - torch.log(-torch.log(noise))
    return prompts, keys.topk(shape.group_size, dim=1).indices


def _exploited(
    scenario: Scenario, shape: Shape, generator: torch.Generator
) -> Bool[Tensor, "rows size"]:
    """Which responses are exploited: each by itself, by the step's share."""
    step = torch.arange(shape.steps).repeat_interleave(shape.groups)
    share = ((step - shape.onset + 1) / scenario.ramp).clamp(0, 1)
    if scenario.healthy:
        share = torch.zeros_like(share)
    draws = torch.rand(len(share), shape.group_size, generator=generator)
    return draws < share[:, None]


def _batch(
    pool: Pool,
    version: Version,
    prompts: Int[Tensor, " rows"],
    picked: Int[Tensor, "rows size"],
    exploited: Bool[Tensor, "rows size"],
) -> Measured:
    """The picked responses, each in the version that it has."""
    changed = pool.clean if version == CLEAN else pool.exploited[version]
    rows = prompts[:, None]

    def chosen(name: str) -> Tensor:
        plain, other = getattr(pool.clean, name)[rows, picked], getattr(changed, name)[rows, picked]
        mask = exploited[..., None] if plain.ndim == 3 else exploited
        return torch.where(mask, other, plain)

    return Measured(**{name: chosen(name) for name in Measured.__dataclass_fields__})


def _pushed(
    vectors: Float[Tensor, "rows size two_axes"],
    exploited: Bool[Tensor, "rows size"],
    scenario: Scenario,
    generator: torch.Generator,
) -> Float[Tensor, "rows size two_axes"]:
    """Exploited responses turned against the others on some axes, so that they win there.

    By 0.2, 0.4 or 0.8 rad: s_l(i, j) is the sine of the angle from i to j, so a response turned
    back by θ wins against one that was level by sin θ times the lengths.
    """
    pairs = axis_pairs(vectors)
    axes = torch.randperm(pairs.shape[2], generator=generator)[: scenario.pushed_axes]
    angle = torch.zeros(pairs.shape[:3], dtype=vectors.dtype)
    angle[:, :, axes] = -0.1 * 2**scenario.version.strength * exploited[..., None].to(angle)
    x, y = pairs[..., 0], pairs[..., 1]
    turned = [angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y]
    return torch.stack(turned, -1).flatten(2)


def _evidence(
    batch: Measured,
    eigenvalues: Float[Tensor, "rows axes"],
    anchors: Float[Tensor, "rows two_axes"],
    shape: Shape,
) -> Evidence:
    def per_step(values: Tensor) -> Tensor:
        return values.view(shape.steps, shape.groups, -1).mean(1).squeeze(-1)

    variance = axis_std(group_scores(axis_pairs(batch.vectors))).square()
    vectors, others = axis_pairs(batch.vectors), axis_pairs(anchors[:, None])
    anchored = scores_against(vectors, others).mean(dim=(1, 2))
    tokens = batch.lengths.sum(1)
    surprise = per_step((batch.surprise * batch.lengths).sum(1) / tokens)
    return Evidence(
        variance=per_step(variance),
        weighted_variance=per_step(variance * eigenvalues.square()),
        anchored=per_step(anchored),
        surprise=surprise,
        kl=(surprise - surprise[:1]).abs(),
        length=per_step(batch.lengths.mean(1)),
        gold=per_step(batch.gold.mean(1)),
    )


def loss_step(gold: Float[Tensor, " steps"], onset: int) -> int | None:
    """Return the first step from the onset on at which the gold is ten points or more under its
    best so far; None if it never is."""
    lost = (gold.cummax(0).values - gold >= LOST).nonzero()[:, 0]
    later = lost[lost >= onset]
    return int(later[0]) if len(later) else None


def loss_at(gold: Float[Tensor, " steps"], step: int) -> float:
    """Return by how much of win rate the gold is under its best so far at a step."""
    return float(gold[: step + 1].max() - gold[step])
