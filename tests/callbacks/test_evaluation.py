"""What is evaluated on held-out prompts is truly computed: the KL of whole responses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gprl_lightning.callbacks.evaluation import EVALUATION_SEED, HeldOutEvaluation
from gprl_lightning.config import Config
from gprl_lightning.core.batch import Prompt
from gprl_lightning.evaluation.judges import PreferenceModelJudge
from gprl_lightning.modules import gprl
from gprl_lightning.modules.rollout_logprobs import logprobs_of
from gprl_lightning.tasks.build import held_out_evaluation
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.loggers import read_metrics
from tests.tiny import tiny_prompts
from tests.worlds import tiny_loader, tiny_module, tiny_trainer

TEXTS = ["sing", "count to ten", "say hello to all", "go", "be brief"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    module = tiny_module(iterations=4, lr=3e-3, micro_batch_size=2)
    batches = [
        tiny_prompts(module.policy, TEXTS[:3]),
        tiny_prompts(module.policy, TEXTS[3:], first=3),
    ]
    judge = PreferenceModelJudge(module.preference_model.module)
    evaluation = HeldOutEvaluation(batches, judge, every=2, temperature=1.0)
    trainer = tiny_trainer(folder, every=100, callbacks=[evaluation])
    trainer.fit(module, tiny_loader(module, 4))
    return folder, module, evaluation


def _one_by_one(network, prompts, rollout, row):
    """Σ_t log π(y_t | x, y_<t) of one response, from the logits of the model alone."""
    prompt = prompts.input_ids[row][prompts.mask[row]]
    response = rollout.response_ids[row][rollout.response_mask[row]]
    ids = torch.cat([prompt, response])[None]
    logprobs = network.causal_lm(input_ids=ids).logits[0].double().log_softmax(-1)
    places = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
    return float(logprobs[places, response].sum())


@torch.no_grad()
def test_kl_is_the_mean_log_ratio_of_whole_responses(run):
    folder, module, evaluation = run
    answers = evaluation._answer(module, module.sampler, module.policy, EVALUATION_SEED)
    assert [len(r.responses) for r in answers.rollouts] == [3, 2]
    ratios = [
        _one_by_one(module.policy, rollout.prompts, rollout, row)
        - _one_by_one(module.reference.module, rollout.prompts, rollout, row)
        for rollout in answers.rollouts
        for row in range(len(rollout.responses))
    ]
    logged = read_metrics(folder / "metrics.csv")[metrics.EVAL_KL]
    assert logged[0] == [0, 2, 4]
    assert logged[1][-1] == pytest.approx(sum(ratios) / 5, abs=1e-4)
    assert abs(logged[1][-1]) > 0.01


def test_at_the_start_policy_and_reference_are_alike(run):
    assert read_metrics(run[0] / "metrics.csv")[metrics.EVAL_KL][1][0] == pytest.approx(0, abs=1e-5)


def test_its_forwards_keep_to_the_update_s_budget_of_tokens(run, monkeypatch):
    _, module, evaluation = run
    rollout = evaluation._answer(module, module.sampler, module.policy, EVALUATION_SEED).rollouts[0]
    expected = module.log_ratios(rollout)
    seen = []

    def watched(network, rollout, parts):
        seen.extend(map(len, parts))
        return logprobs_of(network, rollout, parts)

    monkeypatch.setattr(gprl, "logprobs_of", watched)
    monkeypatch.setattr(module, "algorithm", replace(module.algorithm, micro_batch_tokens=1))
    torch.testing.assert_close(module.log_ratios(rollout), expected, rtol=1e-5, atol=1e-5)
    assert seen == [1] * 6  # a row that is over the budget by itself is a part


def test_diversity_is_logged(run):
    values = read_metrics(run[0] / "metrics.csv")[metrics.EVAL_DISTINCT_BIGRAMS][1]
    assert len(values) == 3 and all(0 <= value <= 1 for value in values)


def test_answers_are_sampled_in_batches_of_the_size_asked_for():
    """By default of a rollout's: 2 prompts per step with 2 responses to each. Whichever, the
    answers are the same."""
    module = tiny_module(2)
    prompts = [Prompt(i, ({"role": "user", "content": text},)) for i, text in enumerate(TEXTS)]
    config = Config()
    config.evaluation.judge = "preference_model"
    config.data.prompts_per_step = config.rollout.group_size = 2
    answers = []
    for asked, sizes in ((None, [4, 1]), (3, [3, 2]), (200, [5])):
        config.evaluation.batch_size = asked
        (evaluation,) = held_out_evaluation(config, module.policy, prompts, module)
        assert [len(batch) for batch in evaluation.batches] == sizes
        answers.append(
            evaluation._answer(module, module.sampler, module.policy, EVALUATION_SEED).texts
        )
    assert answers[0] == answers[1] == answers[2]


@torch.no_grad()
def test_the_halves_are_of_the_prompts_at_even_and_at_odd_places(run):
    """What is chosen by one of them can be read on the other: no comparison is in both."""
    folder, module, evaluation = run
    answers = evaluation._answer(module, module.sampler, module.policy, EVALUATION_SEED)
    asked = [m for batch in evaluation.batches for m in batch.messages]
    wins = [
        evaluation.judge.prefer(*row)
        for row in zip(asked, answers.texts, evaluation.baseline.texts, strict=True)
    ]
    logged = read_metrics(folder / "metrics.csv")
    even, odd = logged[metrics.EVAL_WIN_RATE_EVEN][1], logged[metrics.EVAL_WIN_RATE_ODD][1]
    assert even[-1] == pytest.approx((wins[0] + wins[2] + wins[4]) / 3)
    assert odd[-1] == pytest.approx((wins[1] + wins[3]) / 2)
