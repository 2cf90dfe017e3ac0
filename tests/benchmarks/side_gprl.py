"""``train.py`` as one side of a benchmark, in a process of its own: ``python -m`` this file.

Takes the arguments of ``train.py``. With ``BENCHMARK_REWARD=cheap`` the preference model is
replaced by a function in Python, as TRL's side has it, which no option of the program does.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence

import torch

from gprl_lightning.core.batch import Columns, Messages
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.tasks import train_policy as training
from tests.benchmarks.turns import ROOT


def cheap_reward(text: str) -> float:
    """What both sides call where the preference model is off."""
    return float(len(set(text)))


class CheapReward:
    """A preference source of one axis: its reward is a function of the text, in Python."""

    axes, tau = ("0",), 1.0

    def embed(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[Sequence[str]],
        columns: Sequence[Columns],
    ) -> Embeddings:
        rewards = torch.tensor([[cheap_reward(text) for text in group] for group in responses])
        return Embeddings.of_rewards(rewards[..., None], torch.ones(len(prompts), 1))

    def identity(self) -> dict[str, object]:
        return {"reward": "cheap_reward"}


def main() -> None:
    if os.environ.get("BENCHMARK_REWARD") == "cheap":
        training.build_preference_source = lambda config, cfg: CheapReward()
    sys.argv[0] = str(ROOT / "train.py")
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
