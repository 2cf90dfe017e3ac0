"""Judges by word: a function, a second preference model, a language model, and what is refused."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace

import pytest
import torch

from gprl_lightning.callbacks.evaluation import Answers, HeldOutEvaluation
from gprl_lightning.config import Config, EvaluationConfig
from gprl_lightning.config.judging import PROXY, judge_specs, quoted_judge
from gprl_lightning.config.validation import validate
from gprl_lightning.core.batch import Prompt
from gprl_lightning.errors import ConfigError, RewardFailed
from gprl_lightning.evaluation.endpoint_judge import EndpointJudge
from gprl_lightning.evaluation.function_judge import FunctionJudge, function_judge
from gprl_lightning.evaluation.judge import SourceJudge
from gprl_lightning.evaluation.judge_metrics import cut_share, undecided
from gprl_lightning.evaluation.witness import not_independent
from gprl_lightning.models.composed import Composed
from gprl_lightning.models.function_rewards import FunctionRewards
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.preference_model import texts_read
from gprl_lightning.models.preference_source import PreferenceSource
from gprl_lightning.models.pretrained_preference import (
    load_preference_model,
    save_preference_model,
)
from gprl_lightning.models.rubric import Rubric
from gprl_lightning.tasks.evaluation import build_judges
from tests.chat_server import Reply, chat_server
from tests.composing import composed
from tests.tiny import chat, tiny_model, tiny_tokenizer

FAST = {"retries": 1, "backoff": 0.001, "timeout": 0.5}
PROMPTS = [
    Prompt(0, chat("say a"), {"prompt": "say a", "truth": "a"}),
    Prompt(1, chat("say b"), {"prompt": "say b", "truth": "b"}),
]
A, B = ["a", "ccc"], ["aaa", "b"]


def right(prompts, a, b, truth):
    pairs = zip(a, b, truth, strict=True)
    return [1.0 if x == t else 0.0 if y == t else None for x, y, t in pairs]


async def late(prompts, a, b, **columns):
    await asyncio.sleep(0)
    return [0.5 for _ in prompts]


def brevity(prompts, completions, **columns):
    return [-len(text) for text in completions]


def mistaken(prompts, first, second):
    return []


def evaluation(**options) -> EvaluationConfig:
    return EvaluationConfig(**options)


# What the words mean


def test_each_word_is_a_judge_and_the_first_is_quoted():
    one = evaluation(judge="model", judge_path="my/other")
    assert quoted_judge(one) == "model: the preference model my/other"
    one = evaluation(judge="endpoint", judge_url="http://x/v1", judge_model="m")
    assert quoted_judge(one) == "endpoint: m at http://x/v1"
    assert quoted_judge(evaluation(judge="my_judges.better")) == "better: my_judges.better"
    assert quoted_judge(evaluation(judge={"_target_": "a.B"})) == "B: a.B"
    assert quoted_judge(evaluation(judge="none")) == ""
    named = {"second": {"judge": "model", "path": "p"}, "short": "my_judges.short"}
    assert list(judge_specs(evaluation(judge="sandbox_gold", judges=named))) == [
        "gold", "second", "short",
    ]  # fmt: skip
    both = evaluation(judge="preference_model", judges=named)
    assert list(judge_specs(both)) == ["second", "short", PROXY], "the reward is no first witness"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"judge": "me"}, "evaluation.judge='me': expected one of sandbox_gold"),
        ({"judge": "model"}, "evaluation.judge_path: expected it with the judge model"),
        ({"judge": "endpoint", "judge_url": "u"}, "evaluation.judge_model: expected it"),
        ({"judge": "none", "judge_path": "p"}, "expected evaluation.judge=model, which reads it"),
        ({"judges": {"x": {"judge": "endpoint", "url": "u"}}}, "evaluation.judges.x.model"),
        ({"judges": {"gold": "my.f"}}, "expected a judge under a name of its own"),
        ({"judges": {"proxy": "my.f"}}, "expected a judge under a name of its own"),
        ({"judges": {"x": "preference_model"}}, "expected a judge under a name of its own"),
        ({"judge": "my.f", "judges": {"f": "my.g"}}, "expected a judge under a name of its own"),
    ],
)
def test_what_is_no_judge_is_refused_by_key(options, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        evaluation(**options)


def test_a_path_that_is_not_there_is_refused_before_anything_loads():
    road = ("evaluation.judge=model", "evaluation.judge_path=./nowhere")
    with pytest.raises(ConfigError, match=r"evaluation.judge_path=./nowhere: expected an existing"):
        validate(composed(*road))
    named = "+evaluation.judges.second={judge: model, path: ./nowhere}"
    with pytest.raises(ConfigError, match=r"evaluation.judges.second.path=./nowhere: expected"):
        validate(composed(named))


# Functions


def test_a_function_compares_texts_with_the_data_s_columns():
    assert FunctionJudge(right).prefer(PROMPTS, A, B) == [1.0, 0.0]
    assert FunctionJudge(right).prefer(PROMPTS, ["x", "b"], B) == [None, 1.0]
    assert FunctionJudge(late).prefer(PROMPTS, A, B) == [0.5, 0.5]


def test_a_function_is_given_chat_where_the_row_is_chat():
    given = {}

    def watch(prompts, a, b):
        given.update(prompts=prompts, a=a, b=b)
        return [None]

    messages = [{"role": "user", "content": "hi"}]
    FunctionJudge(watch).prefer([Prompt(0, chat("hi"), {"prompt": messages})], ["x"], ["y"])
    assert given["prompts"] == [messages]
    assert given["a"] == [[{"role": "assistant", "content": "x"}]]
    assert given["b"] == [[{"role": "assistant", "content": "y"}]]


def test_a_reward_prefers_the_answer_with_more_of_it():
    judge = function_judge(f"{__name__}.brevity", "evaluation.judge")
    assert judge.prefer(PROMPTS, A, B) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("answers", "said"),
    [([2.0, 0.0], "found 2.0"), ([1.0], "expected 2 numbers"), (None, "found NoneType")],
)
def test_what_is_no_verdict_is_named(answers, said):
    def wrong(prompts, a, b):
        return answers

    with pytest.raises(RewardFailed, match=rf"evaluation\.judges\.x: .*{re.escape(said)}"):
        FunctionJudge(wrong, "evaluation.judges.x").prefer(PROMPTS, A, B)


def test_a_function_that_is_neither_is_refused():
    with pytest.raises(ConfigError, match=r"found \(prompts, first, second\)"):
        function_judge(f"{__name__}.mistaken", "evaluation.judge")
    with pytest.raises(ConfigError, match=r"evaluation\.judge: .*found 'nowhere\.at_all'"):
        function_judge("nowhere.at_all", "evaluation.judge")


# A second preference model


def saved(folder, seed):
    model = from_backbone(tiny_model("llama", seed=seed).model, tiny_tokenizer(), num_axes=2)
    save_preference_model(model, folder)
    return folder


def test_a_second_model_judges_by_its_own_probabilities(tmp_path):
    config = Config(evaluation=evaluation(judge="model", judge_path=str(saved(tmp_path, 1))))
    judge = build_judges(config)["model"]
    assert isinstance(judge, SourceJudge)
    verdicts, chances = judge.weighed(PROMPTS, A, B)
    model = load_preference_model(tmp_path)
    for prompt, a, b, verdict, chance in zip(PROMPTS, A, B, verdicts, chances, strict=True):
        expected = float(model.compare(prompt.messages, [a, b]).win_probability[0, 1])
        assert chance == pytest.approx(expected, abs=1e-5)
        assert verdict == float(expected > 0.5)
    config.evaluation = evaluation(judges={"x": {"judge": "model", "path": "p", "size": 3}})
    config.evaluation.judge = "none"
    with pytest.raises(ConfigError, match=r"evaluation\.judges\.x: expected options.*size"):
        build_judges(config)


def test_what_a_judge_can_hardly_tell_is_counted():
    shares = undecided("mine", [0.54, 0.46, 0.56, 1.0, None])
    assert shares == {"eval/undecided/mine": 0.5}
    assert undecided("mine", [None]) == {}


def test_judged_texts_that_are_cut_are_counted(tmp_path):
    model = load_preference_model(saved(tmp_path, 1), max_tokens=30)
    evaluation = HeldOutEvaluation(PROMPTS, [], {}, None, 1)  # type: ignore[arg-type]
    before = texts_read([model])
    answers = ["a", "b" * 30]
    evaluation._verdicts(
        None,
        SourceJudge(model),
        Answers(answers, [], []),
        Answers(["a", "b"], [], []),  # type: ignore[arg-type]
    )
    assert cut_share("x", before, texts_read([model])) == {"eval/cut_fraction/x": 0.25}
    assert cut_share("x", before, before) == {}


def test_a_reward_of_any_scale_is_not_called_undecided():
    _, chances = SourceJudge(FunctionRewards([brevity])).weighed(PROMPTS, A, B)
    assert chances == [1.0, 0.0]


# A language model


def shorter(body, _) -> Reply:
    first, second = re.findall(r"Response [AB]:\n(.*)", body["messages"][0]["content"])
    return Reply("A" if len(first) < len(second) else "B")


def judge_of(server, **options) -> EndpointJudge:
    return EndpointJudge(server.url, "m", endpoint=FAST, **options)


def test_both_orders_are_asked(capsys):
    with chat_server(shorter) as server:
        judge = judge_of(server, criterion="Is short.")
        assert judge.prefer(PROMPTS, A, B) == [1.0, 0.0]
        assert len(server.requests) == 4
        assert "Is short." in server.requests[0]["messages"][0]["content"]
    assert "contradict each other in 0 of 2" in capsys.readouterr().err


def test_a_liking_for_a_place_is_a_tie(capsys):
    with chat_server(lambda *_: Reply("A")) as server:
        assert judge_of(server).prefer(PROMPTS, A, B) == [0.5, 0.5]
    assert "contradict each other in 2 of 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "reply", [Reply("who knows"), Reply(status=500), Reply(cut=True), Reply(seconds=0.7)]
)
def test_no_answer_in_either_order_is_no_verdict(reply):
    def some(body, number):
        text = body["messages"][0]["content"]
        return reply if "Response A:\nccc" in text else shorter(body, number)

    with chat_server(some) as server:
        assert judge_of(server).prefer(PROMPTS, A, B) == [1.0, None]


def test_a_server_that_is_away_is_refused_before_the_run_and_costs_no_run_later():
    options = {"judge": "endpoint", "judge_url": "http://127.0.0.1:9/v1", "judge_model": "m"}
    judge = EndpointJudge(options["judge_url"], "m", endpoint=FAST)
    with pytest.raises(ConfigError, match=r"evaluation\.judge: expected A, B or tie from m at"):
        judge.require_answer()
    assert judge.prefer(PROMPTS, A, B) == [None, None]
    with chat_server(lambda *_: Reply("I cannot say")) as server:
        config = Config(evaluation=evaluation(**{**options, "judge_url": server.url}))
        with pytest.raises(ConfigError, match="found 'I cannot say'"):
            build_judges(config)


def test_the_key_comes_from_the_environment_and_is_never_shown(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MY_KEY", "a-secret-word")

    def refuse(body, number):
        return Reply(status=401, body=b"bad key: a-secret-word")

    options = {"judge": "endpoint", "judge_model": "m", "judge_api_key_env": "MY_KEY"}
    with chat_server(refuse) as server:
        config = Config(evaluation=evaluation(judge_url=server.url, **options))
        config.paths.cache = str(tmp_path)
        with pytest.raises(ConfigError) as refused:
            build_judges(config)
        assert server.headers[0]["Authorization"] == "Bearer a-secret-word"
    said = str(refused.value) + "".join(capsys.readouterr())
    assert "401" in said and "a-secret-word" not in said
    assert not any("a-secret-word" in f.read_text() for f in tmp_path.rglob("*") if f.is_file())


def test_answers_are_kept_on_disk(tmp_path):
    with chat_server(shorter) as server:
        for _ in range(2):
            judge_of(server, cache=str(tmp_path)).prefer(PROMPTS, A, B)
        assert len(server.requests) == 4


def test_of_several_processes_the_first_asks():
    evaluation = HeldOutEvaluation(PROMPTS, [], {}, None, 1)  # type: ignore[arg-type]
    answers, baseline = Answers(A, [1, 3], []), Answers(B, [3, 1], [])
    strategy = SimpleNamespace(broadcast=lambda found: found or [1.0, 0.0])
    with chat_server(shorter) as server:
        for first in (False, True):
            trainer = SimpleNamespace(is_global_zero=first, strategy=strategy)
            found, _ = evaluation._verdicts(trainer, judge_of(server), answers, baseline)  # type: ignore[arg-type]
            assert found == [1.0, 0.0]
            assert len(server.requests) == 4 * first


# Whether a judge is a witness


def test_a_judge_with_the_reward_s_own_parts_is_said(tmp_path):
    reward = load_preference_model(saved(tmp_path / "a", 1))
    copy = load_preference_model(saved(tmp_path / "b", 1))
    other = load_preference_model(saved(tmp_path / "c", 2))

    def said(judge, of: PreferenceSource = reward):
        return not_independent({"x": judge}, of)

    assert "the judge x shares the weights" in said(SourceJudge(copy))[0]
    assert said(SourceJudge(other)) == said(SourceJudge(reward)) == said(FunctionJudge(right)) == []
    assert said(SourceJudge(other), Composed({"a": reward, "b": other}))
    functions = FunctionRewards([brevity])
    assert "the function" in said(SourceJudge(FunctionRewards([brevity])), functions)[0]
    with chat_server(shorter) as server:
        rubric = Rubric({"c": "d"}, server.url, "m")
        assert "the language model m" in said(judge_of(server), rubric)[0]


def test_the_judge_moves_to_the_policy_s_device():
    model = from_backbone(tiny_model("llama").model, tiny_tokenizer(), num_axes=2)
    SourceJudge(model).to(torch.device("meta"))
    assert model.value_head.weight.is_meta
    SourceJudge(FunctionRewards([brevity])).to(torch.device("meta"))
