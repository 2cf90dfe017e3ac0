"""``train.py`` as one side of a benchmark, in a process of its own: ``python -m`` this file.

Takes the arguments of ``train.py``. With ``BENCHMARK_REWARD=cheap`` the preference model is
replaced by a function in Python, as TRL's side has it, which no option of the program does.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, LlamaConfig

from gprl_lightning.core.batch import Messages
from gprl_lightning.models.chat_text import ChatText
from gprl_lightning.models.preference_model import Embeddings, PreferenceModel
from gprl_lightning.tasks import train_policy as training
from tests.benchmarks.turns import ROOT


def cheap_reward(text: str) -> float:
    """What both sides call where the preference model is off."""
    return float(len(set(text)))


class CheapReward(PreferenceModel):
    """A Bradley-Terry model in name; its reward is a function of the text, in Python."""

    def __init__(self, tokenizer: Any) -> None:
        size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        backbone = AutoModel.from_config(
            LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=1, **size)
        )
        super().__init__(backbone, torch.nn.Linear(8, 1, bias=False), None, ChatText(tokenizer))

    def embed(self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]]) -> Embeddings:
        rewards = torch.tensor([[cheap_reward(text) for text in group] for group in responses])
        vectors = torch.stack([rewards, torch.ones_like(rewards)], -1)
        return Embeddings(vectors, torch.ones(len(prompts), 1))


def main() -> None:
    if os.environ.get("BENCHMARK_REWARD") == "cheap":
        training.build_preference_model = lambda config: CheapReward(
            AutoTokenizer.from_pretrained(config.policy.path)
        )
    sys.argv[0] = str(ROOT / "train.py")
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
