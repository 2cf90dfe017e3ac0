"""NaN and Inf, wherever they come from, end a run by name: no figure is made of them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.optim import SGD

from gprl_lightning.errors import NotFinite, TooManyBadSteps
from gprl_lightning.evaluation.win_rate import win_rate
from tests.integration.test_failures import fit
from tests.tiny import chat
from tests.worlds import held_out, tiny_module

NAN = float("nan")


def test_logits_that_are_not_finite_are_bad_steps_and_too_many_of_them_an_end(tmp_path):
    module = tiny_module(6)
    head = module.policy.causal_lm.get_output_embeddings()
    head.register_forward_hook(lambda _, __, logits: logits.index_fill(-1, torch.tensor(7), NAN))
    with pytest.raises(TooManyBadSteps, match="found 4 optimiser steps"):
        fit(tmp_path, module, 6)


def test_finite_gradients_that_leave_nan_in_the_weights(tmp_path):
    class Overflows(SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                group["params"][0].data[0].fill_(float("nan"))

    module = tiny_module(2)
    module.make_optimizer = partial(Overflows, lr=1e-3)
    with pytest.raises(NotFinite, match=r"optimizer: .*NaN or Inf in 1 of"):
        fit(tmp_path, module)


def test_a_judge_that_overflows_is_named_and_not_the_policy(tmp_path):
    module = tiny_module(2)
    module.preference_model.module.backbone.norm.weight.data.fill_(float("inf"))
    with pytest.raises(NotFinite, match=r"preference_model\.path"):
        fit(tmp_path, module)


def test_a_win_rate_over_nan_is_no_win_rate():
    with pytest.raises(NotFinite, match=r"evaluation\.judge: .* 1 of 3"):
        win_rate([1.0, float("nan"), 0.0])


@pytest.mark.parametrize("where", ["prefer", "axes"])
def test_an_evaluation_that_is_not_finite_ends_the_run(tmp_path, where):
    class Broken:
        def prefer(self, prompts, responses, others):
            return [float("nan") if where == "prefer" else 0.5] * len(prompts)

        def axes(self, prompts, responses):
            return {"tone": [float("inf")] * len(prompts)} if where == "axes" else {}

    module = tiny_module(2)
    with pytest.raises(NotFinite, match=r"evaluation\.judge"):
        fit(tmp_path, module, callbacks=[held_out(module, Broken())])


def test_a_sound_judge_compares(tmp_path):
    module = tiny_module(1)
    module.preference_model.module.compare(chat("hi"), ["yes", "no"])
