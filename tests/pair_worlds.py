"""The parts of a run on pairs, small enough for a test: random tiny models, three prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from gprl_lightning.config import Config, DataConfig
from gprl_lightning.core.batch import Prompt
from gprl_lightning.core.gprl_advantages import GPRLAdvantages
from gprl_lightning.core.importance import ImportanceCorrection
from gprl_lightning.core.policy_loss import Clip
from gprl_lightning.data.preferences import make_pair
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.modules.parts import Parts
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from tests.tiny import chat, tiny_model, tiny_tokenizer
from tests.worlds import SIZE, TOKENS, tiny_policy

TEXTS = ["a", "say bb", "c c c"]
GPRL = GPRLAdvantages()
LENGTHS = (1, 4, 2, 3)


def tiny_parts(
    config: Config | None = None,
    dtype: torch.dtype = torch.float32,
    texts: Sequence[str] = TEXTS,
    rule: GPRLAdvantages = GPRL,
) -> Parts:
    """Parts of which nothing is built before it is asked for, as in a run."""
    pairs = [
        make_pair(text, "so " * n, "no", label=0.9) for text, n in zip(texts, LENGTHS, strict=False)
    ]
    judge = partial(from_backbone, tiny_model("llama", seed=3).model, tiny_tokenizer(), num_axes=3)
    return Parts(
        config=config or Config(data=DataConfig(prompts_per_step=3)),
        policy=tiny_policy(dtype),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        prompts=[Prompt(i, chat(text)) for i, text in enumerate(texts)],
        sampling=Sampling(SIZE, TOKENS),
        correction=ImportanceCorrection(),
        build_rule=lambda: rule,
        build_loss=Clip,
        build_source=judge,
        build_sampler=NativeSampler,
        build_pairs=lambda: (pairs, []),
    )


def stepped_by_hand(module: Any) -> Any:
    """Give the module an optimiser and a backward pass, as a trainer would."""
    optimizer = torch.optim.AdamW(module.policy.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    module.optimizer_and_schedule = lambda: (optimizer, schedule)
    module.manual_backward = lambda loss: loss.backward()
    return module
