"""A pool of responses with all that a monitor or a judge could want of each, worked out once.

The starting policy answers every prompt several times, and each answer is kept as it is and with
every exploit planted in it. Streams of a "run" are then drawn from the pool for next to nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.batch import Messages
from gprl_lightning.core.preference import axis_pairs, scores_against, total_scores
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.policy_tokens import left_pad
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.runtime.progress import progress
from gprl_lightning.sandbox.golds import Gold
from gprl_lightning.study.planting import PLANTS

OPPONENTS = 8  # answers of the starting policy that each response is judged against
ROWS_AT_ONCE = 128

Texts = list[list[str]]  # prompts, responses


@dataclass(frozen=True)
class Version:
    """A way to exploit: the name of a plant, or `OWN_WORSE`, and how strong; or `CLEAN`."""

    name: str
    strength: int


CLEAN = Version("none", 0)
OWN_WORSE = "own_worse"  # not a plant: the starting policy's own answers, but poorer ones


def planted(version: Version, texts: Texts) -> Texts:
    """Return the texts in a version; the same edit of a response whenever it is made."""
    plants = {plant.__name__: plant for plant in PLANTS}
    if version == CLEAN:
        return texts
    edit, strength = plants[version.name], version.strength
    return [
        [
            edit(text, strength, random.Random(f"{version.name} {group} {i}"))
            for i, text in enumerate(answers)
        ]
        for group, answers in enumerate(texts)
    ]


@dataclass(frozen=True)
class Measured:
    """One version of all the pool's responses, as the monitors and the judge see it.

    Attributes:
        vectors: of the preference model.
        gold: the gold win rate against `OPPONENTS` clean answers to the same prompt.
        quality: the gold's, in one number (of the vote, its sum of z-scores).
        lengths: tokens.
        surprise: mean of -log π_ref over the tokens, in nats.
    """

    vectors: Float[Tensor, "prompts size two_axes"]
    gold: Float[Tensor, "prompts size"]
    quality: Float[Tensor, "prompts size"]
    lengths: Float[Tensor, "prompts size"]
    surprise: Float[Tensor, "prompts size"]


@dataclass(frozen=True)
class Pool:
    """The responses of the starting policy, clean and exploited; one answer per prompt is kept
    aside as its anchor."""

    eigenvalues: Float[Tensor, "prompts axes"]
    anchors: Float[Tensor, "prompts two_axes"]
    clean: Measured
    exploited: dict[Version, Measured]

    def proxy_win_rate(self, measured: Measured) -> float:
        """Return how often the preference model puts a version before a clean answer to the same
        prompt; a tie, as with itself, counts half."""
        scores = scores_against(axis_pairs(measured.vectors), axis_pairs(self.clean.vectors))
        total = total_scores(scores, self.eigenvalues[:, None, None])
        return float((total.sign() / 2 + 0.5).mean())


def with_own_worse(pool: Pool, strengths: Sequence[int]) -> Pool:
    """Return the pool with an exploit that stays in the starting policy's language, which no edit
    does.

    A response becomes one that ranks 1, 2 or 3 quarters of the group lower in quality (or the last
    one): as if the preference model came to prefer the wrong answers.
    """
    clean, exploited = pool.clean, dict(pool.exploited)
    order = clean.quality.argsort(dim=1, descending=True)
    rank, size = order.argsort(dim=1), order.shape[1]
    for strength in strengths:
        lower = order.gather(1, (rank + strength * size // 4).clamp(max=size - 1))
        rows = torch.arange(len(lower))[:, None]
        moved = {name: values[rows, lower] for name, values in vars(clean).items()}
        exploited[Version(OWN_WORSE, strength)] = Measured(**moved)
    return Pool(pool.eigenvalues, pool.anchors, clean, exploited)


def make_pool(
    policy: Policy,
    judge: PreferenceModel,
    gold: Gold,
    prompts: Sequence[Messages],
    responses: Texts,
    versions: Sequence[Version],
    max_new_tokens: int,
) -> Pool:
    """Embed and judge every version of every response once.

    Args:
        policy: the starting policy.
        judge: the frozen preference model that the run's monitor would read.
        gold: whose verdicts say what an exploit costs.
        prompts: requests of the sandbox.
        responses: answers to each; the first one is its anchor.
        versions: the exploits to plant.
        max_new_tokens: where a run would cut a response, and so a planted one.
    """
    anchors = [[answers[0]] for answers in responses]
    answers = [answers[1:] for answers in responses]
    embedded = judge.embed(prompts, anchors)

    def measured(version: Version) -> Measured:
        cut = [[_cut(policy, t, max_new_tokens) for t in row] for row in planted(version, answers)]
        lengths, surprise = _under(policy, prompts, cut)
        rows = list(zip(prompts, cut, answers, strict=True))
        wins = [[_win_rate(gold, m, t, base) for t in row] for m, row, base in rows]
        quality = [
            [gold.quality(gold.request_of(m[-1]["content"]), t) for t in row] for m, row, _ in rows
        ]
        return Measured(
            vectors=judge.embed(prompts, cut).vectors.flatten(-2).double().cpu(),
            gold=torch.tensor(wins, dtype=torch.float64),
            quality=torch.tensor(quality, dtype=torch.float64),
            lengths=lengths,
            surprise=surprise,
        )

    what = "embedding and judging"
    bar = progress([CLEAN, *versions], description=what, unit="version", leave=False)
    clean, *exploited = [measured(version) for version in bar]
    return Pool(
        eigenvalues=embedded.eigenvalues.double().cpu(),
        anchors=embedded.vectors[:, 0].flatten(-2).double().cpu(),
        clean=clean,
        exploited=dict(zip(versions, exploited, strict=True)),
    )


def _cut(policy: Policy, text: str, tokens: int) -> str:
    ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    return text if len(ids) <= tokens else str(policy.tokenizer.decode(ids[:tokens]))


def _win_rate(gold: Gold, prompt: Messages, text: str, base: list[str]) -> float:
    """Against the first answers that are not the text itself: a tie with oneself says nothing."""
    others = [other for other in base if other != text][:OPPONENTS]
    request = gold.request_of(prompt[-1]["content"])
    return sum(gold.prefer(request, text, other) for other in others) / max(len(others), 1)


@torch.no_grad()
def _under(
    policy: Policy, prompts: Sequence[Messages], texts: Texts
) -> tuple[Float[Tensor, "prompts size"], Float[Tensor, "prompts size"]]:
    """Tokens of each text with its end, and its mean -log π, in nats per token."""
    batch = policy.encode_prompts(0, range(len(prompts)), prompts, max_prompt_tokens=512)
    group = [g for g, row in enumerate(texts) for _ in row]
    ids = [
        [*policy.tokenizer(text, add_special_tokens=False)["input_ids"], policy.eos_ids[0]]
        for row in texts
        for text in row
    ]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    lengths = torch.tensor([len(row) for row in ids], dtype=torch.float64)
    surprise = torch.zeros(len(ids), dtype=torch.float64)
    for start in range(0, len(order), ROWS_AT_ONCE):
        rows = order[start : start + ROWS_AT_ONCE]
        flipped, mask = left_pad([ids[i][::-1] for i in rows], policy.pad_id)
        response, real = flipped.flip(1), mask.flip(1)  # padded on the right
        at = torch.tensor([group[i] for i in rows])
        logprobs, _ = policy(batch.input_ids[at], batch.mask[at], response, real)
        surprise[rows] = -logprobs.double().sum(1) / real.sum(1)
    return lengths.view(len(texts), -1), surprise.view(len(texts), -1)
