"""Every precision, dtype, adapter and checkpointing that validation accepts trains and resumes."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from peft import LoraConfig, get_peft_model

from gprl_lightning.config.trainer_checks import PRECISIONS
from gprl_lightning.evaluation.judge import SourceJudge
from gprl_lightning.models.policy import Policy
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.equality import differences
from tests.tiny import tiny_model, tiny_tokenizer
from tests.worlds import held_out, tiny_loader, tiny_module, tiny_trainer

ACCEPTED = ("32-true", "bf16-mixed")  # the others are other names of these


def policy(dtype: torch.dtype, lora: bool, checkpointing: bool) -> Policy:
    model = tiny_model(spread=1.0).to(dtype)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if lora:
        model.enable_input_require_grads()
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules="all-linear"))
    return Policy(model, tiny_tokenizer())


def run(folder, precision, options, checkpoint=None):
    module = tiny_module(2, policy=policy(*options), lr=0.05)
    evaluation = held_out(module, SourceJudge(module.preference_model.module))
    trainer = tiny_trainer(folder, precision=precision, callbacks=[evaluation])
    trainer.fit(module, tiny_loader(module, 2), ckpt_path=checkpoint, weights_only=True)
    return module.policy.state_dict()


@pytest.mark.parametrize("precision", ACCEPTED)
@pytest.mark.parametrize(
    "options", product([torch.float32, torch.bfloat16], [False, True], [False, True]), ids=str
)
def test_two_iterations_and_a_resume(tmp_path, precision, options):
    whole = run(tmp_path / "whole", precision, options)
    before = policy(*options).state_dict()
    assert any(not torch.equal(whole[name], before[name]) for name in whole)
    checkpoint = tmp_path / "whole" / "checkpoints" / "iteration_000001.ckpt"
    resumed = run(tmp_path / "again", precision, options, checkpoint)
    assert differences(dict(whole), dict(resumed)) == []


def test_every_name_that_is_accepted_is_one_of_these():
    assert {str(name).removesuffix("-true").removesuffix("-mixed") for name in PRECISIONS} == {
        "32", "bf16", "None",
    }  # fmt: skip


def test_an_evaluation_computes_as_training_does(tmp_path):
    """Policy and reference are alike at the start; the sampler's own precision is that of both."""
    seen = []

    class Watched(SourceJudge):
        def weighed(self, prompts, responses, others):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().weighed(prompts, responses, others)

    module = tiny_module(1)
    evaluation = held_out(module, Watched(module.preference_model.module))
    trainer = tiny_trainer(tmp_path, precision="bf16-mixed", callbacks=[evaluation])
    trainer.fit(module, tiny_loader(module, 1))
    assert seen == [True, True]
    assert read_metrics(tmp_path / "metrics.csv")["eval/kl"][1][0] == 0
