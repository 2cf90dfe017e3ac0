"""Criteria judged by a real vLLM server: `make test-vllm`.

The sandbox's policy is a poor judge and need not be a good one: its answers are held to the words
that are asked for.
"""

from __future__ import annotations

import os

import pytest
import torch

from gprl_lightning.core.batch import Prompt
from gprl_lightning.core.preference import pairwise_scores
from gprl_lightning.errors import RewardFailed
from gprl_lightning.evaluation.endpoint_judge import EndpointJudge
from gprl_lightning.models.rubric import Rubric
from gprl_lightning.rollout.vllm_start import stop
from tests.rollout.test_vllm_engine import served
from tests.tiny import chat

pytestmark = pytest.mark.vllm
CRITERIA = {"brief": "Is short.", "kind": "Is kind."}
PROMPTS = [chat("Write a review of a kettle."), chat("Write a review of a film.")]
RESPONSES = [["It boils.", "I love it, it is great.", "No."], ["Bad.", "A good film.", "So so."]]
PATIENT = {"timeout": 120, "retries": 1}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    if given := os.environ.get("VLLM_URL"):
        yield f"{given}/v1"
        return
    process = served(tmp_path_factory.mktemp("vllm"), 8473)
    yield "http://127.0.0.1:8473/v1"
    stop(process)


def held_to(*words: str):
    """vLLM's own field for answers of a given set."""
    return {"extra": {"structured_outputs": {"choice": [*words]}}}


GRADES = held_to(*map(str, range(1, 11)))
VERDICTS = held_to("A", "B", "tie")


def test_grades_of_a_served_model(url, capsys):
    def rubric():
        return Rubric(CRITERIA, url, "policy", max_failures=0.0, options=GRADES, endpoint=PATIENT)

    found = rubric().embed(PROMPTS, RESPONSES)
    grades = found.vectors[..., 0]
    assert grades.shape == (2, 3, 2) and ((grades >= 1) & (grades <= 10)).all()
    assert torch.equal(grades, grades.round())
    assert torch.equal(found.vectors, rubric().embed(PROMPTS, RESPONSES).vectors)
    said = capsys.readouterr().err
    assert "12 answers in 12 calls, 0 from the cache, 0 failed" in said
    assert " 0 prompt" not in said, "the server counts its tokens"


def test_verdicts_in_both_orders_are_skew_symmetric(url):
    source = Rubric(
        CRITERIA, url, "policy", pairwise=True, max_failures=0.0, options=VERDICTS, endpoint=PATIENT
    )
    scores = pairwise_scores(source.embed(PROMPTS, RESPONSES).vectors)
    assert torch.equal(scores, -scores.transpose(1, 2))
    assert set(scores.unique().tolist()) <= {-1.0, -0.5, 0.0, 0.5, 1.0}


def test_the_judge_of_an_evaluation(url):
    judge = EndpointJudge(url, "policy", options=VERDICTS, endpoint=PATIENT)
    judge.require_answer()
    prompts = [Prompt(i, messages) for i, messages in enumerate(PROMPTS)]
    verdicts = judge.prefer(prompts, ["It boils.", "Bad."], ["No.", "A good film."])
    assert all(v in (0.0, 0.25, 0.5, 0.75, 1.0) for v in verdicts)
    swapped = judge.prefer(prompts, ["No.", "A good film."], ["It boils.", "Bad."])
    assert [1 - v for v in swapped if v is not None] == verdicts


def test_talk_is_no_grade_and_another_model_is_named(url):
    with pytest.raises(RewardFailed, match="expected answers to 100% of the questions"):
        Rubric(CRITERIA, url, "policy", max_failures=0.0, endpoint=PATIENT).embed(
            PROMPTS, RESPONSES
        )
    with pytest.raises(RewardFailed, match="HTTP 404"):
        Rubric(CRITERIA, url, "no-such-model", endpoint=PATIENT).embed(PROMPTS, RESPONSES)
