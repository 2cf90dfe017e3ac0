"""Gold-labelled pairs: what the sandbox's preference models learn from.

The starting policy answers train requests several times; the gold judge says which of two answers
to the same request is better. Options make the labels worse, for the study of over-optimisation.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from gprl_lightning.core.batch import Messages, Prompt
from gprl_lightning.data.preferences import PreferencePair, make_pair
from gprl_lightning.evaluation.judge import Judge
from gprl_lightning.models.policy import Policy
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.runtime.progress import progress
from gprl_lightning.sandbox.sentences import words

PAIRS_SEED = 15_485_863  # keeps this sampling apart from that of training


def sample_responses(
    policy: Policy,
    sampling: Sampling,
    prompts: Sequence[tuple[int, Messages]],
    seed: int,
    prompts_at_once: int = 32,
    max_prompt_tokens: int = 512,
) -> list[list[str]]:
    """Return ``sampling.group_size`` responses of the policy to each (uid, messages)."""
    sampler = NativeSampler()
    device = next(policy.parameters()).device
    out: list[list[str]] = []
    parts = [prompts[i : i + prompts_at_once] for i in range(0, len(prompts), prompts_at_once)]
    what = "sampling the starting policy"
    for part in progress(parts, description=what, unit="batch", leave=False):
        uids, messages = zip(*part, strict=True)
        batch = policy.encode_prompts(0, uids, messages, max_prompt_tokens).to(device)
        out += sampler.sample(policy, batch, sampling, seed + PAIRS_SEED).grouped_responses()
    return out


def label_pairs(
    prompts: Sequence[Messages],
    responses: Sequence[Sequence[str]],
    judge: Judge,
    count: int,
    seed: int,
    label_noise: float = 0.0,
    length_bias: float = 0.0,
) -> list[PreferencePair]:
    """Return ``count`` pairs of responses that the judge tells apart.

    Every prompt gives about equally many pairs. Each has the judge's verdict on every axis of its
    own as attributes.

    Args:
        label_noise: this share of the labels is turned over, and of each attribute's verdicts.
        length_bias: this share of the labels goes to the response with more words (equally many:
            to the judge's), whatever the judge says: a spurious correlation.

    Raises:
        ValueError: there are not enough different pairs.
    """
    rng, attribute_rng = random.Random(seed), random.Random(f"attributes {seed}")
    rows: list[PreferencePair] = []
    for group, i, j in _pairs(responses, rng):
        first, second = responses[group][i], responses[group][j]
        prompt = Prompt(group, prompts[group])
        (outcome,) = judge.prefer([prompt], [first], [second])
        if outcome is None or outcome == 0.5:
            continue
        chosen, rejected = (first, second) if outcome > 0.5 else (second, first)
        if length_bias and rng.random() < length_bias and _words(rejected) > _words(chosen):
            chosen, rejected = rejected, chosen
        if rng.random() < label_noise:
            chosen, rejected = rejected, chosen
        verdicts = _verdicts(judge, prompt, chosen, rejected)
        noisy = {
            name: 1 - verdict if attribute_rng.random() < label_noise else verdict
            for name, verdict in verdicts.items()
        }
        rows.append(make_pair(prompts[group], chosen, rejected, attributes=noisy))
        if len(rows) == count:
            return rows
    raise ValueError(
        f"expected {count} pairs, found {len(rows)}: sample more responses per prompt."
    )


def _verdicts(judge: Judge, prompt: Prompt, chosen: str, rejected: str) -> dict[str, float]:
    """Compare two texts on each axis. Return 1 if `chosen` scores higher, 0 if lower, 0.5 on a
    tie."""
    axes = judge.axes([prompt, prompt], [chosen, rejected])
    return {name: (1 + (a > b) - (a < b)) / 2 for name, (a, b) in axes.items()}


def _words(response: str) -> int:
    return len(words(response))


def _pairs(
    responses: Sequence[Sequence[str]], rng: random.Random
) -> Iterator[tuple[int, int, int]]:
    """Pairs in rounds: one of each prompt, then another of each prompt, and so on."""
    rounds = []
    for group, answers in enumerate(responses):
        pairs = list(itertools.combinations(range(len(answers)), 2))
        rng.shuffle(pairs)
        rounds.append([(group, i, j) for i, j in pairs])
    for step in itertools.zip_longest(*rounds):
        yield from (pair for pair in step if pair is not None)
