"""The gold judge in the place of the learned preference model: the ceiling of any proxy. Ours.

``preference_model.kind=gold``: responses are rewarded by the very judge that evaluates them, so
that there is nothing to over-optimise. What stays is what the algorithm and the KL penalty make of
a perfect reward.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gprl_lightning.config import Config
from gprl_lightning.core.batch import Messages
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.chat_text import ChatText
from gprl_lightning.models.preference_model import Embeddings, PreferenceModel
from gprl_lightning.models.tokenizer_files import load_tokenizer
from gprl_lightning.sandbox.gold import GoldJudge


class GoldPreferenceModel(PreferenceModel):
    """Text in, scores out, as any preference model; inside are the gold's verdicts, no network.

    The gold's vote has cycles, which no vectors of few axes express. But what the update takes of
    a group is its scores alone, and those of the verdicts ``A_ij`` = 1, 0 or −1 come out exactly
    from the one-axis vectors ``[Σ_j A_ij / G, 1]``: ``1/(G−1) Σ_j (v_i × v_j) = 1/(G−1) Σ_j A_ij``.
    So the vectors of a response depend on the group that it is compared in.

    Args:
        text: how conversations would become tokens; the gold reads words.
        cyclic_votes: of the gold, as in the evaluation.
    """

    def __init__(self, text: ChatText, cyclic_votes: int = 0):
        super().__init__(nn.Identity(), nn.Linear(1, 1, bias=False), None, text, tau=1.0)
        self.kind = "gold"
        self.gold = GoldJudge(cyclic_votes=cyclic_votes)

    def embed(self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]]) -> Embeddings:
        """Vectors of every response within its group; λ = 1."""
        rewards = torch.tensor(
            [self._shares(p, group) for p, group in zip(prompts, responses, strict=True)],
            device=self.device,
        )
        vectors = torch.stack([rewards, torch.ones_like(rewards)], -1)
        return Embeddings(vectors, vectors.new_ones(len(vectors), 1))

    def _shares(self, prompt: Messages, responses: Sequence[str]) -> list[float]:
        """Each response's wins less its losses in the group, over G."""
        request = self.gold.request_of(prompt[-1]["content"])
        balance = [0.0] * len(responses)
        for i, j in itertools.combinations(range(len(responses)), 2):
            verdict = 2 * self.gold.prefer(request, responses[i], responses[j]) - 1
            balance[i] += verdict
            balance[j] -= verdict
        return [value / len(responses) for value in balance]

    def embed_conversations(
        self, conversations: Sequence[Messages]
    ) -> tuple[Float[Tensor, "rows two_axes"], Float[Tensor, "rows axes"]]:
        """Not possible: the gold compares, and says nothing of a response by itself.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("preference_model.kind=gold compares responses; give a group.")


def gold_preference_model(config: Config) -> GoldPreferenceModel:
    """The gold as the reward, with a tokenizer of its own."""
    folder = policy_folder(config.policy.path, config.paths.cache)
    text = ChatText(load_tokenizer("policy.path", folder), config.preference_model.max_tokens)
    return GoldPreferenceModel(text, config.preference_training.cyclic_votes)
