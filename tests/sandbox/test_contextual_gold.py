"""The contextual gold against an oracle of plain loops; the vote is what it was; each flag acts."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace

import pytest

from gprl_lightning.config.validation import validate
from gprl_lightning.core.batch import Messages, Prompt
from gprl_lightning.errors import ConfigError, ResumeRefused
from gprl_lightning.models.function_rewards import FunctionRewards
from gprl_lightning.runtime.run_identity import RunIdentity, flattened, require_same_config
from gprl_lightning.sandbox import gold
from gprl_lightning.sandbox.contextual_gold import ContextualGold, context_weights
from gprl_lightning.sandbox.gold_judge import SandboxGoldJudge
from gprl_lightning.sandbox.golds import gold_of
from gprl_lightning.sandbox.pairs import label_pairs
from gprl_lightning.sandbox.requests import TASKS, Request, all_requests
from gprl_lightning.tasks.build import build_preference_source, build_prompts
from gprl_lightning.tasks.evaluation import build_judges
from tests.composing import composed

LINES = (gold.ASSETS / "corpus.jsonl").read_text(encoding="utf8").splitlines()
TEXTS = [json.loads(line)["response"] for line in LINES[::80]]
TEXTS += ["", "Great.", "great " * 40, "The cafe, the coffee, the cafe, the coffee, the cafe."]
CONTEXTUAL, VOTE = "sandbox.gold=contextual", "sandbox.gold=vote"
# Of the code before the second gold, see the test.
RECORDED = "09f0e45c20b3d7f4474b06b78d5f3968a822ac9255295358eb8f9f3f43c12c5a"
# Which axis weighs 3 and which ½, by task, as the method has it.
REST = ("sentiment", "relevance", "diversity", "length", "fluency")
WEIGHTS = {
    "review": {**dict.fromkeys(REST, 0.5), "sentiment": 3},
    "describe": {**dict.fromkeys(REST, 0.5), "length": 0, "brevity": 3},
    "recommend": {**dict.fromkeys(REST, 0.5), "relevance": 3},
    "complaint": {**dict.fromkeys(REST, 0.5), "fluency": 3},
    "praise": {**dict.fromkeys(REST, 0.5), "length": 0, "size": 3},
}


def _request(task: str) -> Request:
    return Request(task, "cafe", "coffee")


def _asked(request: Request) -> Messages:
    return ({"role": "user", "content": request.text},)


def _oracle(request: Request, text: str) -> float:
    """The utility by loops, in float64, from the vote's axes and the packaged scales."""
    scales = json.loads((gold.ASSETS / "gold_scales.json").read_text(encoding="utf8"))
    total = 0.0
    for name, weight in WEIGHTS[request.task].items():
        if name in ("size", "brevity"):
            count = 0
            for part in text.split():
                count += any(character.isalpha() for character in part)
            value = float({True: 6, False: count}[count < 6])
            value = 25.0 if value > 25 else value
            value = -value if name == "brevity" else value
        else:
            value = getattr(gold, name)(request, text)
        mean, std = scales[name]
        z = (value - mean) / std
        if z > 3:
            z = 3.0
        if z < -3:
            z = -3.0
        total += weight * z
    return total


@pytest.mark.parametrize("task", TASKS)
def test_the_utility_is_the_oracle_s(task):
    judge, request = ContextualGold(), _request(task)
    assert context_weights(task) == {"brevity": 0, "size": 0, **WEIGHTS[task]}
    found = [judge.quality(request, text) for text in TEXTS]
    assert found == pytest.approx([_oracle(request, text) for text in TEXTS], abs=1e-12)
    for a, b in itertools.product(TEXTS, repeat=2):
        margin = _oracle(request, a) - _oracle(request, b)
        if abs(margin) > 1e-9:
            assert judge.prefer(request, a, b) == float(margin > 0)
    assert judge.prefer(request, TEXTS[0], TEXTS[0]) == 0.5


def test_no_axis_carries_an_answer_beyond_its_bound():
    """Neither an empty answer nor an endless one gains by it."""
    judge, describe, praise = ContextualGold(), _request("describe"), _request("praise")
    for few, many in (("", "a b c"), ("a b c", "a b c d e f")):
        assert judge.axes(describe, few)["brevity"] == judge.axes(describe, many)["brevity"]
    assert judge.axes(praise, "word " * 26)["size"] == judge.axes(praise, "word " * 99)["size"]
    assert all(abs(z) <= 3 for text in TEXTS for z in judge.clipped(describe, text).values())


def test_what_counts_depends_on_the_task():
    judge = ContextualGold()
    brief = "I loved the coffee of this cafe."
    long = brief + " The staff was kind and the bread was warm and we will come again soon."
    assert judge.prefer(_request("describe"), brief, long) == 1.0
    assert judge.prefer(_request("praise"), brief, long) == 0.0
    assert {judge.prefer(_request(task), *TEXTS[3:5]) for task in TASKS} == {0.0, 1.0}


def test_the_vote_is_what_it_was_before_there_were_two_golds():
    """Verdicts and qualities of 44 texts on ten requests, to nine digits, as recorded then."""
    judge, requests = gold.GoldJudge(), all_requests()[::144]
    verdicts = [[judge.prefer(r, a, b) for a, b in itertools.pairwise(TEXTS)] for r in requests]
    qualities = [[f"{judge.quality(r, text):.9f}" for text in TEXTS] for r in requests]
    digest = hashlib.sha256(json.dumps([verdicts, qualities]).encode()).hexdigest()
    assert digest == RECORDED


def test_the_flag_chooses_who_labels_judges_and_rewards():
    vote, contextual = (validate(composed("ablation=gold_reward", f)) for f in (VOTE, CONTEXTUAL))
    assert validate(composed()).sandbox.gold == "contextual"
    prompts = [_asked(_request(task)) for task in TASKS]
    asked = [Prompt(i, messages) for i, messages in enumerate(prompts)]
    others = [TEXTS[3:8]] * len(prompts)
    verdicts, labels, scores, identities = [], [], [], []
    for config in (vote, contextual):
        judge = build_judges(config)["gold"]
        verdicts.append([judge.prefer([p] * 5, TEXTS[:5], TEXTS[3:8]) for p in asked])
        labelled = SandboxGoldJudge(gold_of(config))
        labels.append(label_pairs(prompts, others, labelled, 20, seed=0))
        source = build_preference_source(config, composed("ablation=gold_reward"))
        scores.append(source.embed(prompts, others, []).vectors.tolist())
        identities.append(source.identity())
    assert verdicts[0] != verdicts[1] and scores[0] != scores[1]
    assert [set(pairs[0].attributes) for pairs in labels] == [
        {"sentiment", "relevance", "diversity", "length", "fluency"},
        {"sentiment", "relevance", "diversity", "length", "fluency", "brevity", "size"},
    ]
    assert [p.answers for p in labels[0]] != [p.answers for p in labels[1]]
    assert identities[0] == {"gold": list(gold_of(vote).names), "cyclic_votes": 0}
    assert identities[0] != identities[1]


def test_a_run_of_one_gold_is_not_resumed_with_the_other():
    saved = RunIdentity({"sandbox.gold": "vote"}, "", "", "", "", 1)
    require_same_config(saved, {"sandbox": {"gold": "vote"}}, [])
    with pytest.raises(ResumeRefused, match=r"sandbox\.gold: expected 'vote'"):
        require_same_config(saved, {"sandbox": {"gold": "contextual"}}, [])
    assert flattened({"sandbox": {"gold": "vote"}}) == saved.config


def _given(*overrides: str):
    """A source of given axes, two prompts of different tasks, and its embeddings of `TEXTS`."""
    cfg = composed(CONTEXTUAL, *overrides)
    config = validate(cfg)
    prompts, _ = build_prompts(config)
    prompts = [next(p for p in prompts if p.columns["task"] == t) for t in ("review", "praise")]
    source = build_preference_source(config, cfg)
    assert isinstance(source, FunctionRewards)
    messages, columns = [p.messages for p in prompts], [p.columns for p in prompts]
    return source, prompts, source.embed(messages, [TEXTS] * 2, columns)


def test_given_axes_are_the_gold_s_own_and_their_weighted_sum_is_the_utility():
    source, prompts, found = _given("preference_model=given_axes")
    judge = ContextualGold()
    assert source.axes == judge.names
    rewards = found.vectors[..., 0].double()
    sums = (rewards * found.eigenvalues.double()[:, None]).sum(-1)
    for prompt, row, own in zip(prompts, sums, rewards, strict=True):
        request = judge.request_of(prompt.messages[-1]["content"])
        expected = [_oracle(request, text) / 5 for text in TEXTS]  # λ sums to 1
        assert row.tolist() == pytest.approx(expected, abs=1e-5)
        assert own[0].tolist() == pytest.approx([*judge.clipped(request, TEXTS[0]).values()])
    assert found.eigenvalues.sum(1).tolist() == pytest.approx([1, 1])


def test_blind_weights_are_the_mean_over_tasks():
    _, _, true = _given("preference_model=given_axes")
    _, _, blind = _given("preference_model=given_axes", "preference_model/weights=blind")
    names = ContextualGold().names
    mean = [sum(context_weights(t)[n] / 5 for t in TASKS) / len(TASKS) for n in names]
    for row in blind.eigenvalues.tolist():
        assert row == pytest.approx(mean)
    assert true.eigenvalues[0].tolist() != true.eigenvalues[1].tolist()


@pytest.mark.parametrize(
    "name,place,hack",
    [("poswords", 0, "great " * 60), ("mentions", 1, "coffee " * 60)],
)
def test_an_axis_that_can_be_hacked_counts_without_end_and_its_control_does_not(name, place, hack):
    clean, _, _ = _given("preference_model=given_axes")
    hackable, _, _ = _given(f"preference_model=given_axes_{name}")
    clipped, _, _ = _given(f"preference_model=given_axes_{name}_clipped")
    prompt = _asked(_request("review"))
    columns = {f"weight_{axis}": 1.0 for axis in ContextualGold().names}
    half = hack[: len(hack) // 2]

    def rewards(source: FunctionRewards) -> list[float]:
        return source.embed([prompt], [[half, hack]], [columns]).vectors[0, :, place, 0].tolist()

    assert hackable.axes == (*clean.axes[:place], name, *clean.axes[place + 1 :])
    once, twice = rewards(hackable)
    counted = {"poswords": "positive_words", "mentions": "topic_words"}[name]
    mean, std = vars(gold.packaged_scales()[counted]).values()
    said = {"poswords": 30 * 3.1, "mentions": 30.0}[name]  # VADER has 3.1 for "great"
    assert [once, twice] == pytest.approx([(said - mean) / std, (2 * said - mean) / std], rel=1e-5)
    assert twice > 2 * once > 10
    assert rewards(clipped) == [3.0, 3.0]
    assert max(rewards(clean)) <= 3.0


def test_true_weights_need_the_contextual_gold_and_blind_ones_do_not():
    with pytest.raises(ConfigError, match=r"sandbox\.gold=vote: expected contextual"):
        validate(composed("preference_model=given_axes", VOTE))
    validate(composed("preference_model=given_axes", "preference_model/weights=blind", VOTE))


def test_rows_have_weights_with_the_contextual_gold_alone():
    """Those of a run with the vote are what they were: a resume compares them."""
    config = validate(composed(VOTE))
    vote = build_prompts(config)[0][0].columns
    contextual = build_prompts(replace(config, sandbox=validate(composed(CONTEXTUAL)).sandbox))
    assert set(vote) == {"prompt", "task"}
    assert set(contextual[0][0].columns) - set(vote) == {
        f"weight_{name}" for name in ContextualGold().names
    }
