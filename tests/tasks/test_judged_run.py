"""A whole run with several judges and a reward that asks for tokens: columns, table, picture."""

from __future__ import annotations

import re

import pytest

from gprl_lightning.config.validation import validate
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.function_rewards import FunctionRewards
from gprl_lightning.modules.scoring import embed_groups
from gprl_lightning.tasks.train_policy import train_policy
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.report import judged
from gprl_lightning.tracking.run_folder import judge_of
from tests.chat_server import Reply, chat_server
from tests.composing import composed
from tests.tiny_run import tiny_settings
from tests.worlds import tiny_loader, tiny_module

LENGTHS: list[list[int]] = []


def few_tokens(prompts, completions, completion_ids):
    LENGTHS.append([len(ids) for ids in completion_ids])
    return [-float(len(ids)) for ids in completion_ids]


def letters(prompts, a, b, **columns):
    return [float(len(x) > len(y)) if len(x) != len(y) else None for x, y in zip(a, b, strict=True)]


def first_letter(body, _) -> Reply:
    first, second = re.findall(r"Response [AB]:\n(.*)", body["messages"][0]["content"])
    return Reply("A" if first < second else "B" if second < first else "tie")


def settings(folder, server, **more):
    judges = {
        "evaluation.judge": "endpoint",
        "evaluation.judge_url": server.url,
        "evaluation.judge_model": "m",
        "+evaluation.judges.letters": f"{__name__}.letters",
        "+evaluation.judges.second": f"{{judge: model, path: {folder / 'judge'}}}",
        "preference_model": "functions",
        "preference_model.functions": f"[{__name__}.few_tokens]",
        "drift": "disabled",
        "algorithm.max_silent_iterations": "null",  # the tiny policy's responses are all alike
        "evaluation.every": 1,
        "paths.cache": str(folder / "cache"),
        "logger": "csv",
        "callbacks": "none",  # the table of rollouts goes to the current folder outside of Hydra
    }
    values = {**tiny_settings(folder), **judges, **more}
    for idle in (
        "preference_model.path",
        "drift.calibration_steps",
        "callbacks.rollout_table.every",
    ):
        values.pop(idle)
    return composed(*(f"{key}={value}" for key, value in values.items()))


def test_every_judge_has_its_column_and_the_table_says_which_it_quotes(tmp_path, capsys):
    with chat_server(first_letter) as server:
        cfg = settings(tmp_path, server)
        train_policy(validate(cfg), cfg, tmp_path / "run")
        address = server.url
    columns = read_metrics(tmp_path / "run" / "metrics.csv")
    assert set(judged(columns)) == {"endpoint", "letters", "second", "proxy"}
    assert columns[metrics.EVAL_WIN_RATE] == judged(columns)["endpoint"]
    assert judged(columns)["second"][0] == [0, 1, 2]
    assert judge_of(tmp_path / "run") == f"endpoint: m at {address}"
    table = " ".join(capsys.readouterr().out.split())
    assert "judged by" in table and "by letters" in table and "by second" in table
    assert "gold" not in table, "no gold judged here"
    assert (tmp_path / "run" / "report.png").exists()
    assert LENGTHS and all(1 <= n <= 6 for call in LENGTHS for n in call)


def test_a_server_that_is_away_ends_the_run_before_the_policy_is_loaded(tmp_path):
    with chat_server(first_letter) as server:
        cfg = settings(tmp_path, server)
    cfg.policy.path = "nowhere/at-all"
    judge = {"judge": "endpoint", "url": server.url, "model": "m"}
    cfg.evaluation.judge = {**judge, "endpoint": {"retries": 0}}
    cfg.evaluation.judge_url = cfg.evaluation.judge_model = None
    with pytest.raises(ConfigError, match=r"evaluation\.judge: expected A, B or tie from m at"):
        train_policy(validate(cfg), cfg, tmp_path / "run")


def test_the_reward_is_given_each_response_s_own_tokens():
    module = tiny_module()
    prompts = tiny_loader(module).batch(0)
    rollout = module.sampler.sample(module.policy, prompts, module.sampling, 0)
    given = []

    def watch(completions, completion_ids):
        given.extend(completion_ids)
        return [0.0] * len(completions)

    source = FunctionRewards([watch])
    embed_groups(source, rollout, None)
    lengths = rollout.response_mask.sum(1).tolist()
    rows = zip(rollout.response_ids.tolist(), lengths, strict=True)
    assert given == [row[:n] for row, n in rows]
    assert any(rollout.finished.tolist()) or all(n == lengths[0] for n in lengths)
