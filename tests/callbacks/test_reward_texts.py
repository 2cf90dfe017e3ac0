"""What the reward could not read to its end is counted, of each iteration's own texts."""

from __future__ import annotations

from typing import Any

import pytest

from gprl_lightning.callbacks.reward_texts import RewardTexts
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.tiny import tiny_tokenizer
from tests.worlds import tiny_loader, tiny_module, tiny_trainer


def lengths(module) -> list[int]:
    """Tokens of each text of the first iteration, by the template alone."""
    rollout = module.sampler.sample(
        module.policy, tiny_loader(module).batch(0), module.sampling, module.seed
    )
    tokenizer: Any = tiny_tokenizer()
    found = []
    for prompt, group in zip(rollout.prompts.messages, rollout.grouped_responses(), strict=True):
        for text in group:
            messages = [*prompt, {"role": "assistant", "content": text}]
            written = tokenizer.apply_chat_template(messages, tokenize=False)
            found.append(len(tokenizer(written).input_ids))
    return found


@pytest.mark.parametrize("place", [0, 5, -1])
def test_the_share_of_texts_that_were_cut(tmp_path, place):
    module = tiny_module(iterations=2, anchored=False)
    found = sorted(lengths(module))
    judge: Any = module.preference_model.module
    room = judge.text.max_tokens = found[place]
    trainer = tiny_trainer(tmp_path, every=100, callbacks=[RewardTexts()])
    trainer.fit(module, tiny_loader(module, 2))
    steps, values = read_metrics(tmp_path / "metrics.csv")[metrics.REWARD_CUT_FRACTION]
    assert len(steps) == 2
    share = sum(n > room for n in found) / len(found)
    assert values[0] == pytest.approx(share)
    assert (share == 0) == (place == -1)
