"""What the trainer asks of a sampler."""

from __future__ import annotations

from typing import Protocol

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.models.policy import Policy


class Sampler(Protocol):
    """Draws ``group_size`` responses to each prompt. Built from the fields of `RolloutConfig`.

    ``old_logprobs`` of the result are of the distribution softmax(logits / temperature) that the
    policy trains on, *before* top-k, top-p and min-p, so that the first update's ratio is 1.
    """

    group_size: int
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float

    def sample(self, policy: Policy, prompts: PromptBatch, seed: int) -> Rollout:
        """Responses of ``policy``: a function of the weights, the prompts and ``seed`` alone."""
        ...
