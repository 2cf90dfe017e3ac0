"""What an evaluation's answers leave on the disk, from a real evaluation of a tiny policy."""

from __future__ import annotations

from functools import partial

import pytest

from gprl_lightning.callbacks.evaluation import HeldOutEvaluation
from gprl_lightning.core.batch import Prompt
from gprl_lightning.core.preference import pairwise_scores, total_scores
from gprl_lightning.evaluation.judge import SourceJudge
from gprl_lightning.tasks.evaluation import keep_answers
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.answer_log import (
    answer_file,
    answered_iterations,
    read_answers,
    write_answers,
)
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.callbacks.test_evaluation import TEXTS, Shorter
from tests.tiny import tiny_prompts
from tests.worlds import contestants, tiny_loader, tiny_module, tiny_trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    module = tiny_module(iterations=2, lr=3e-3, micro_batch_size=2)
    prompts = [Prompt(i, ({"role": "user", "content": text},)) for i, text in enumerate(TEXTS)]
    reward = SourceJudge(module.preference_model.module)
    judges = {"mine": Shorter(), "proxy": reward}
    keep = partial(keep_answers, folder, reward)
    batches = [tiny_prompts(module.policy, TEXTS)]
    evaluation = HeldOutEvaluation(prompts, batches, judges, contestants(module), 1, keep)
    tiny_trainer(folder, every=100, callbacks=[evaluation]).fit(module, tiny_loader(module, 2))
    return folder, module, evaluation


def test_every_evaluation_leaves_its_answers(run):
    folder, _, evaluation = run
    assert answered_iterations(folder) == [0, 1, 2]
    rows = read_answers(folder, 2)
    assert [row["prompt"] for row in rows] == TEXTS
    assert [row["answer"] for row in rows] == evaluation.answers().texts
    assert [row["start_answer"] for row in rows] == evaluation.baseline.texts
    assert [row["tokens"] for row in rows] == evaluation.answers().lengths


def test_log_probabilities_give_the_logged_kl(run):
    folder, _, _ = run
    logged = dict(zip(*read_metrics(folder / "metrics.csv")[metrics.EVAL_KL], strict=True))
    for iteration in (0, 2):
        rows = read_answers(folder, iteration)
        ratios = [row["logprob"] - row["start_logprob"] for row in rows]
        assert sum(ratios) / len(ratios) == pytest.approx(logged[iteration], abs=1e-5)
    assert abs(logged[2]) > 1e-3


def test_what_the_reward_said_is_what_it_says_again(run):
    folder, module, _ = run
    rows = read_answers(folder, 2)
    source = module.preference_model.module
    pairs = [[row["answer"], row["start_answer"]] for row in rows]
    messages = [({"role": "user", "content": row["prompt"]},) for row in rows]
    found = source.embed(messages, pairs, [{}] * len(rows))
    scores = pairwise_scores(found.vectors)[:, 0, 1]
    totals = total_scores(scores, found.eigenvalues)
    for row, total, eigenvalues in zip(rows, totals, found.eigenvalues, strict=True):
        by_hand = [
            a[0] * b[1] - a[1] * b[0]
            for a, b in zip(row["vectors"], row["start_vectors"], strict=True)
        ]
        assert row["eigenvalues"] == pytest.approx(eigenvalues.tolist(), abs=1e-6)
        weighted = sum(x * y for x, y in zip(by_hand, row["eigenvalues"], strict=True))
        assert weighted == pytest.approx(float(total), abs=1e-5)
        assert row["verdicts"]["proxy"] == (1.0 if total > 0 else 0.0 if total < 0 else 0.5)
    assert rows[0]["axes"] == list(source.axes)


def test_judges_that_decide_nothing_and_their_axes_are_kept(run):
    rows = read_answers(run[0], 0)
    for row in rows:
        ours, theirs = len(row["answer"]), len(row["start_answer"])
        assert row["verdicts"]["mine"] == (None if ours == theirs else float(ours < theirs))
        assert row["qualities"] == {"mine": {"characters": float(ours)}}


def test_a_new_run_in_the_folder_removes_an_earlier_one_s(tmp_path):
    row = {"prompt": "p", "answer": "\ud800 <script>", "verdicts": {}}
    for iteration in (0, 10, 20):
        write_answers(tmp_path, iteration, [row])
    write_answers(tmp_path, 0, [row, row])
    assert answered_iterations(tmp_path) == [0]
    assert read_answers(tmp_path, 0) == [row, row]


def test_a_torn_line_is_left_out(tmp_path):
    write_answers(tmp_path, 0, [{"prompt": "p", "answer": "a", "verdicts": {}}])
    with answer_file(tmp_path, 0).open("a") as file:
        file.write('{"prompt": "q", "ans')
    assert [row["prompt"] for row in read_answers(tmp_path, 0)] == ["p"]
