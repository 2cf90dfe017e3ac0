"""What the trainer asks of a sampler, and what it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.models.policy import Policy


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn: the six keys of ``rollout`` that every sampler obeys.

    Attributes:
        group_size: G, responses per prompt.
        max_new_tokens: where a response is cut.
        temperature: must be the policy's for ``old_logprobs`` to be what it trains on.
        top_p, top_k, min_p: as in `gprl_lightning.rollout.sampling.sample_tokens`.

    >>> Sampling(group_size=8, max_new_tokens=64, temperature=0.7).top_p
    1.0
    """

    group_size: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    @property
    def cuts(self) -> bool:
        """True if only some of the tokens can be drawn."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


class Sampler(Protocol):
    """Draws responses. Built by ``rollout.sampler``, whose options are its own.

    ``old_logprobs`` of the result are of the distribution softmax(logits / temperature) that the
    policy trains on, *before* top-k, top-p and min-p, so that the first update's ratio is 1.
    """

    @property
    def own_weights(self) -> bool:
        """Whether it holds a copy of the weights, which `weights_changed` replaces. Only such a
        sampler can work while the policy is trained (``rollout.staleness=1``)."""
        ...

    def sample(
        self, policy: Policy, prompts: PromptBatch, sampling: Sampling, seed: int
    ) -> Rollout:
        """Return responses of the last weights that `weights_changed` gave: a function of these,
        the prompts, ``sampling`` and ``seed`` alone."""
        ...

    def weights_changed(self, policy: Policy, version: int) -> None:
        """Take the policy's weights, ``version`` iterations old: all later samples are of them.

        Every process calls it. A sampler that reads the policy's own tensors does nothing.
        """
        ...
