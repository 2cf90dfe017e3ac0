"""What is evaluated on held-out prompts is truly computed: the KL of whole responses."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from gprl_lightning.callbacks.evaluation import (
    Answers,
    HeldOutEvaluation,
    verdict_metrics,
)
from gprl_lightning.config import Config
from gprl_lightning.core.batch import Prompt
from gprl_lightning.evaluation.judge import SourceJudge
from gprl_lightning.evaluation.judge_metrics import by_task
from gprl_lightning.modules import rollout_logprobs
from gprl_lightning.modules.parts import Parts
from gprl_lightning.modules.rollout_logprobs import logprobs_of
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.tasks.evaluation import build_judges, held_out_evaluation
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.tiny import tiny_prompts
from tests.worlds import contestants, tiny_loader, tiny_module, tiny_trainer

TEXTS = ["sing", "count to ten", "say hello to all", "go", "be brief"]


class Shorter:
    """Prefers fewer characters; refuses to compare answers that are equally long."""

    def prefer(self, prompts, responses, others):
        return [
            None if len(a) == len(b) else float(len(a) < len(b))
            for a, b in zip(responses, others, strict=True)
        ]

    def axes(self, prompts, responses):
        return {"characters": [float(len(r)) for r in responses]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    module = tiny_module(iterations=4, lr=3e-3, micro_batch_size=2)
    batches = [
        tiny_prompts(module.policy, TEXTS[:3]),
        tiny_prompts(module.policy, TEXTS[3:], first=3),
    ]
    judges = {"mine": Shorter(), "proxy": SourceJudge(module.preference_model.module)}
    prompts = [Prompt(i, ({"role": "user", "content": text},)) for i, text in enumerate(TEXTS)]
    evaluation = HeldOutEvaluation(prompts, batches, judges, contestants(module), every=2)
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
    answers = evaluation.answers()
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
    rollout = evaluation.answers().rollouts[0]
    ratios = evaluation.contestants.log_ratios
    expected = ratios(rollout)
    seen = []

    def watched(network, rollout, parts):
        seen.extend(map(len, parts))
        return logprobs_of(network, rollout, parts)

    monkeypatch.setattr(rollout_logprobs, "logprobs_of", watched)
    monkeypatch.setattr(module, "algorithm", replace(module.algorithm, micro_batch_tokens=1))
    torch.testing.assert_close(ratios(rollout), expected, rtol=1e-5, atol=1e-5)
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
    source = partial(getattr, module.preference_model, "module")
    parts = Parts(
        config,
        module.policy,
        optimizer=None,
        prompts=[],
        sampling=module.sampling,
        correction=module.correction,
        build_rule=lambda: module.advantage_rule,
        build_loss=lambda: module.policy_loss,
        build_source=source,
        build_sampler=NativeSampler,
        build_pairs=tuple,
    )
    for asked, sizes in ((None, [4, 1]), (3, [3, 2]), (200, [5])):
        config.evaluation.batch_size = asked
        (evaluation,) = held_out_evaluation(config, parts, prompts, {})
        assert list(evaluation.judges) == ["proxy"]
        assert [len(batch) for batch in evaluation.batches] == sizes
        answers.append(evaluation.answers().texts)
    assert answers[0] == answers[1] == answers[2]


@torch.no_grad()
def test_the_halves_are_of_the_prompts_at_even_and_at_odd_places(run):
    """What is chosen by one of them can be read on the other: no comparison is in both."""
    logged = read_metrics(run[0] / "metrics.csv")
    answers = Answers(["a"] * 5, [1, 2, 3, 4, 5], [])
    values = verdict_metrics("mine", [1.0, 0.0, 1.0, 0.0, 0.5], answers, answers, quoted=True)
    assert values[metrics.EVAL_WIN_RATE_EVEN] == pytest.approx(2.5 / 3)
    assert values[metrics.EVAL_WIN_RATE_ODD] == 0.0
    assert len(logged[metrics.EVAL_WIN_RATE_EVEN][1]) == 3


def test_every_judge_has_a_column_and_the_first_is_quoted(run):
    columns = read_metrics(run[0] / "metrics.csv")
    mine = columns[metrics.of_judge(metrics.EVAL_WIN_RATE, "mine")]
    proxy = columns[metrics.EVAL_PROXY_WIN_RATE]
    assert columns[metrics.EVAL_WIN_RATE] == mine
    assert mine != proxy and proxy[0] == [0, 2, 4]
    assert len(columns[metrics.judge_axis("mine", "characters")][1]) == 3


def test_no_verdict_is_counted_and_not_a_tie(capsys):
    answers = Answers(["a"] * 4, [1, 2, 3, 4], [])
    values = verdict_metrics("mine", [1.0, None, 1.0, None], answers, answers, quoted=True)
    assert values[metrics.EVAL_WIN_RATE] == 1.0
    assert values[metrics.of_judge(metrics.EVAL_NO_VERDICT, "mine")] == 2
    assert "mine gave no verdict on 2 of 4" in capsys.readouterr().out
    silent = verdict_metrics("mine", [None] * 4, answers, answers, quoted=True)
    assert silent == {metrics.of_judge(metrics.EVAL_NO_VERDICT, "mine"): 4}


def test_a_judge_of_one_s_own_is_named_in_the_configuration():
    config = Config()
    config.evaluation.judge = "none"
    config.evaluation.judges = {"mine": {"_target_": f"{__name__}.Shorter"}}
    assert build_judges(config)["mine"].prefer([], ["a"], ["bb"]) == [1.0]
    assert list(build_judges(config)) == ["mine"]
    config.evaluation.judge = "sandbox_gold"
    assert list(build_judges(config)) == ["gold", "mine"]


def test_the_quoted_judge_s_win_rate_is_told_by_task():
    tasks = ["review", "praise", "review", "praise", "review"]
    prompts = [Prompt(i, (), {"task": task}) for i, task in enumerate(tasks)]
    found = by_task(prompts, [1.0, 0.0, 0.5, None, 1.0])
    assert found == {
        "eval/win_rate_by_task/praise": 0.0,
        "eval/win_rate_by_task/review": pytest.approx(2.5 / 3),
    }
    assert by_task(prompts[::2], [1.0, 0.0, 1.0]) == {}  # one task alone is the whole
    assert by_task([Prompt(0, ()), Prompt(1, ())], [1.0, 0.0]) == {}  # no such column
    many = [Prompt(i, (), {"task": str(i)}) for i in range(40)]
    assert by_task(many, [1.0] * 40) == {}
