"""Prompts: what a row may be, what is refused and how, and the order in which iterations take
them."""

from __future__ import annotations

import json

import pytest
import torch

from gprl_lightning.config import DataConfig
from gprl_lightning.core.batch import Prompt, PromptBatch
from gprl_lightning.data.prompts import PromptLoader, load_prompts
from gprl_lightning.errors import ConfigError

CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]


def _file(tmp_path, rows) -> str:
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return str(file)


def test_plain_texts_and_chat_messages(tmp_path):
    path = _file(tmp_path, [{"prompt": "One"}, {"prompt": CHAT}, {"prompt": "Three"}])
    train, held_out = load_prompts(DataConfig(path=path, held_out=1))
    assert [p.uid for p in train] == [0, 1]
    assert train[0].messages == ({"role": "user", "content": "One"},)
    assert list(train[1].messages) == CHAT
    assert held_out[0].messages[0]["content"] == "Three"


def test_pairs_without_a_column_of_prompts_are_prompts_too(tmp_path):
    """As hh-rlhf's: the prompt is the dialogue before the answer."""
    talk = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Sing\n\nAssistant: "
    pair = {"chosen": [*CHAT, {"role": "assistant", "content": "Hi"}],
            "rejected": [*CHAT, {"role": "assistant", "content": "No"}]}  # fmt: skip
    path = _file(tmp_path, [{"chosen": talk + "La", "rejected": talk + "No"}, pair])
    train, _ = load_prompts(DataConfig(path=path, held_out=0))
    assert [m["content"] for m in train[0].messages] == ["Hi", "Hello.", "Sing"]
    assert list(train[1].messages) == CHAT
    assert list(train[1].columns["prompt"]) == CHAT
    given = _file(tmp_path, [{"prompt": "One", **pair}])
    assert load_prompts(DataConfig(path=given, held_out=0))[0][0].messages[0]["content"] == "One"
    with pytest.raises(ConfigError, match="expected the key 'question'"):
        load_prompts(DataConfig(path=_file(tmp_path, [{"prompt": "One"}]), prompt_key="question"))


def test_the_system_prompt_goes_where_there_is_none(tmp_path):
    path = _file(tmp_path, [{"prompt": "One"}, {"prompt": CHAT}])
    train, _ = load_prompts(DataConfig(path=path, held_out=0, system_prompt="Short."))
    assert [m["content"] for m in train[0].messages] == ["Short.", "One"]
    assert list(train[1].messages) == CHAT


def test_parquet_and_another_key(tmp_path):
    datasets = pytest.importorskip("datasets")
    file = tmp_path / "prompts.parquet"
    datasets.Dataset.from_list([{"question": f"q{i}"} for i in range(4)]).to_parquet(str(file))
    data = DataConfig(path=str(file), prompt_key="question", held_out=1)
    train, held_out = load_prompts(data)
    assert [p.messages[0]["content"] for p in train + held_out] == ["q0", "q1", "q2", "q3"]


def test_a_file_of_held_out_prompts_of_its_own(tmp_path):
    path = _file(tmp_path, [{"prompt": "One"}, {"prompt": "Two"}])
    (tmp_path / "b").mkdir()
    other = _file(tmp_path / "b", [{"prompt": "Three"}])
    train, held_out = load_prompts(DataConfig(path=path, held_out_path=other))
    assert [p.uid for p in train + held_out] == [0, 1, 2]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "no prompt"}, r":2: expected the key 'prompt'.*found \['text'\]"),
        ({"prompt": ""}, ":2: 'prompt' must be a text"),
        ({"prompt": [{"role": "user"}]}, ":2: 'prompt' must be a text"),
        ({"prompt": [*CHAT, {"role": "assistant", "content": "x"}]}, "ends with the user"),
        ('{"prompt": ', ":2: not a JSON object"),
    ],
)
def test_a_broken_row_is_refused_with_file_and_line(tmp_path, row, says):
    path = _file(tmp_path, [{"prompt": "fine"}, row])
    with pytest.raises(ConfigError, match=says):
        load_prompts(DataConfig(path=path, held_out=0))


def test_missing_file_and_nothing_to_train_on(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_prompts(DataConfig(path=str(tmp_path / "none.jsonl")))
    path = _file(tmp_path, [{"prompt": "One"}])
    with pytest.raises(ConfigError, match=r"data\.held_out=5.*1 prompts"):
        load_prompts(DataConfig(path=path, held_out=5))


def _encode(iteration, prompts):
    uids, messages = [p.uid for p in prompts], [p.messages for p in prompts]
    n = len(uids)
    ids = torch.zeros(n, 1, dtype=torch.long)
    return PromptBatch(iteration, torch.tensor(uids), tuple(messages), ids, ids.bool())


def _loader(iterations=6, per_step=2, count=9, **kwargs):
    prompts = [Prompt(i, ({"role": "user", "content": str(i)},)) for i in range(count)]
    return PromptLoader(prompts, _encode, per_step, iterations, seed=1, **kwargs)


def test_an_epoch_takes_every_prompt_at_most_once_and_the_next_is_reshuffled():
    batches = [b.uids.tolist() for b in _loader(iterations=8)]
    first, second = ([uid for b in batches[i : i + 4] for uid in b] for i in (0, 4))
    assert len(set(first)) == len(set(second)) == 8
    assert first != second
    assert [b.iteration for b in _loader(iterations=8)] == list(range(8))


def test_the_prompts_of_several_iterations_as_far_as_the_run_goes():
    loader = _loader(iterations=6)
    singles = [loader.batch(i).uids.tolist() for i in range(6)]
    assert loader.batch(1, 3).uids.tolist() == [uid for row in singles[1:4] for uid in row]
    assert loader.batch(1, 3).iteration == 1
    assert loader.batch(4, 9).uids.tolist() == singles[4] + singles[5]


def test_processes_share_the_stream_of_one():
    single = [sorted(b.uids.tolist()) for b in _loader(per_step=4)]
    ranks = [list(_loader(per_step=2, rank=r, world_size=2)) for r in (0, 1)]
    both = [sorted(a.uids.tolist() + b.uids.tolist()) for a, b in zip(*ranks, strict=True)]
    assert both == single


def test_a_restored_position_goes_on_where_it_was():
    loader = _loader()
    stream = iter(loader)
    next(stream), next(stream)
    other = _loader()
    other.load_state_dict(loader.state_dict())
    assert [b.uids.tolist() for b in other] == [b.uids.tolist() for b in stream]


def test_too_few_prompts_for_one_iteration():
    with pytest.raises(ConfigError, match=r"data\.prompts_per_step=5.*10 prompts.*found 9"):
        _loader(per_step=5, world_size=2)
