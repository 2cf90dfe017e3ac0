"""Pairs from files, splits that leak nothing, and batches that a run can resume from."""

import json
from dataclasses import replace

import pytest
import torch

from gprl_lightning.data.pair_loader import PairLoader
from gprl_lightning.data.preferences import (
    fingerprint,
    make_pair,
    parse_row,
    read_pairs,
    split_pairs,
)
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.chat_text import ChatText
from tests.tiny import tiny_tokenizer

USER = {"role": "user", "content": "Name a colour"}


def said(text):
    return {"role": "assistant", "content": text}


def write(tmp_path, *rows):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return file


def test_both_forms_of_a_row_are_the_same_pair(tmp_path):
    lists = {"chosen": [USER, said("Blue")], "rejected": [USER, said("Red")]}
    texts = {"prompt": "Name a colour", "chosen": "Blue", "rejected": "Red"}
    mixed = {"prompt": [USER], "chosen": "Blue", "rejected": "Red"}
    found = read_pairs(write(tmp_path, lists, texts, "", mixed))
    assert found == [make_pair("Name a colour", "Blue", "Red")] * 3
    assert found[0].prompt == (USER,)
    assert found[0].answers == ("Blue", "Red")


def test_optional_fields():
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "label": 0.7, "margin": 0.2, "group": 4}
    pair = parse_row({**row, "source": "helpfulness"}, "here")
    assert (pair.label, pair.margin, pair.group, pair.subset) == (0.7, 0.2, "4", "helpfulness")
    assert pair.attributes == {}
    labelled = parse_row({**row, "attributes": {"brief": 1, "kind": None}}, "here")
    assert labelled.attributes == {"brief": 1.0, "kind": 0.5}


GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "a"}, r"expected the keys 'chosen' and 'rejected', found \['chosen'\]"),
        ([1], "found list"),
        ("{", "not a JSON object"),
        ({"chosen": "a", "rejected": "b"}, "'chosen' must be chat messages"),
        ({**GOOD, "rejected": 3}, "'rejected' must be chat messages.*found 3"),
        ({**GOOD, "chosen": [USER]}, "end with the assistant"),
        ({**GOOD, "chosen": [USER, {"role": "bot", "content": "x"}]}, "'chosen' must be"),
        ({**GOOD, "attributes": ["brief"]}, r"'attributes' must be labels by name.*\['brief'\]"),
        ({**GOOD, "attributes": {"brief": 2}}, r"'brief' must be a number in \[0, 1\]; found 2"),
    ],
)
def test_bad_rows_are_refused_with_file_and_line(tmp_path, row, message):
    file = write(tmp_path, GOOD, row)
    with pytest.raises(ConfigError, match=message) as error:
        read_pairs(file)
    assert str(error.value).startswith(f"{file}:2:")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "rejected": "a"}, "the same conversation"),
        ({**GOOD, "label": 1.2}, r"'label' must be a number in \[0, 1\]; found 1.2"),
        ({**GOOD, "label": True}, "'label' must be a number"),
        ({**GOOD, "margin": -1}, "'margin' must be a number"),
    ],
)
def test_bad_values_are_refused(row, message):
    with pytest.raises(ConfigError, match=message):
        parse_row(row, "here")


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_pairs(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="no rows"):
        read_pairs(write(tmp_path, ""))


def test_hugging_face_data_set(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = [{"chosen": [USER, said("Blue")], "rejected": [USER, said("Red")], "source": "s"}]
    asked = []

    def load(name, split):
        asked.append((name, split))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_pairs("some/set", "test") == [make_pair("Name a colour", "Blue", "Red", subset="s")]
    assert asked == [("some/set", "test")]


def test_fingerprint_sees_every_field():
    pair = make_pair("p", "a", "b")
    others = [
        make_pair("p", "b", "a"),
        make_pair("q", "a", "b"),
        replace(pair, label=0.9),
        replace(pair, margin=0.1),
    ]
    assert len({fingerprint([p]) for p in [pair, *others]}) == 5
    assert fingerprint([pair]) == fingerprint([make_pair("p", "a", "b")])


def test_split_keeps_prompts_and_groups_whole():
    pairs = [make_pair(f"prompt {i // 2}", f"a{i}", f"b{i}") for i in range(40)]
    # One group spans the prompts 0 and 7: they must go the same way.
    pairs[0], pairs[14] = (replace(pairs[i], group="g") for i in (0, 14))
    for seed in range(6):
        train, held_out = split_pairs(pairs, 9, seed)
        assert sorted(p.answers for p in train + held_out) == sorted(p.answers for p in pairs)
        prompts = [{p.prompt[0]["content"] for p in part} for part in (train, held_out)]
        assert not prompts[0] & prompts[1]
        assert ("prompt 0" in prompts[0]) == ("prompt 7" in prompts[0])
        assert 9 <= len(held_out) <= 12
    assert split_pairs(pairs, 9, 1) == split_pairs(pairs, 9, 1)
    assert split_pairs(pairs, 9, 1) != split_pairs(pairs, 9, 2)


def test_split_that_leaves_nothing():
    with pytest.raises(ConfigError, match=r"data\.held_out=2"):
        split_pairs([make_pair("p", "a", "b"), make_pair("p", "a", "c")], 2)


def pairs_of_lengths(count, group_size=1):
    return [
        make_pair(f"p{i}", "x" * (1 + 37 * i % 50), "y", group=f"g{i // group_size}")
        for i in range(count)
    ]


def loader(pairs, **options):
    return PairLoader(pairs, ChatText(tiny_tokenizer()), options.pop("batch_size", 4), **options)


def test_an_epoch_holds_every_pair_once_and_another_epoch_another_order():
    batches = loader(pairs_of_lengths(40), epochs=2)
    assert len(batches) == 20
    first, second = ([batches.rows(i) for i in range(s, s + 10)] for s in (0, 10))
    for epoch in (first, second):
        assert sorted(i for rows in epoch for i in rows) == list(range(40))
    assert first != second


def test_batches_are_of_similar_length():
    pairs = pairs_of_lengths(48)
    spread = [
        max(lengths) - min(lengths)
        for rows in map(loader(pairs).rows, range(12))
        for lengths in [[len(pairs[i].answers[0]) for i in rows]]
    ]
    assert max(spread) <= 8  # of 50: batches of random pairs spread over 30 and more


def test_the_seed_decides_the_order():
    def order(seed):
        batches = loader(pairs_of_lengths(40), seed=seed)
        return [batches.rows(i) for i in range(len(batches))]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_a_group_is_never_split():
    pairs = pairs_of_lengths(30, group_size=3)
    batches = loader(pairs, batch_size=8)
    for position in range(len(batches)):
        rows = batches.rows(position)
        assert len(rows) == 6
        for i in rows:
            assert {j for j in range(30) if pairs[j].group == pairs[i].group} <= set(rows)


def test_a_group_larger_than_a_batch_is_refused():
    with pytest.raises(ConfigError, match=r"data\.batch_size=2: the group 'g0' has 3"):
        loader(pairs_of_lengths(6, group_size=3), batch_size=2)


def test_two_processes_share_an_epoch():
    pairs = pairs_of_lengths(40)
    ranks = [loader(pairs, rank=rank, world_size=2) for rank in (0, 1)]
    assert [len(r) for r in ranks] == [5, 5]
    seen = [i for r in ranks for position in range(5) for i in r.rows(position)]
    assert sorted(seen) == list(range(40))


def test_evaluation_order_leaves_nothing_out():
    batches = loader(pairs_of_lengths(41), shuffle=False)
    assert sum(len(batch) for batch in batches) == 41
    assert sum(len(batch) for batch in batches) == 41  # and again


def test_resumes_where_it_stood():
    whole = loader(pairs_of_lengths(20), epochs=3)
    expected = [batch.texts.input_ids for batch in whole]
    first = loader(pairs_of_lengths(20), epochs=3)
    stream = iter(first)
    for _ in range(7):
        next(stream)
    resumed = loader(pairs_of_lengths(20), epochs=3)
    resumed.load_state_dict(first.state_dict())
    found = [batch.texts.input_ids for batch in resumed]
    assert len(found) == len(expected) - 7
    assert all(torch.equal(a, b) for a, b in zip(found, expected[7:], strict=True))


def test_a_batch_holds_chosen_and_rejected_in_turn():
    pairs = [make_pair("p", "good", "bad", label=0.8, margin=0.1), make_pair("q", "yes", "no")]
    text = ChatText(tiny_tokenizer())
    batch = PairLoader(pairs, text, 2, shuffle=False).batch(0)
    expected = text([c for i in batch_order(pairs) for c in (pairs[i].chosen, pairs[i].rejected)])
    for ids, mask, row in zip(batch.texts.input_ids, batch.texts.mask, expected, strict=True):
        assert tuple(ids[mask].tolist()) == row.ids
    assert sorted(batch.labels.tolist()) == pytest.approx([0.8, 1.0])
    assert sorted(batch.margins.tolist()) == pytest.approx([0.0, 0.1])


def batch_order(pairs):
    """By length: the shorter pair first."""
    return sorted(range(len(pairs)), key=lambda i: len(pairs[i].answers[0]))


def test_too_few_pairs_for_a_batch():
    with pytest.raises(ConfigError, match=r"data\.batch_size=4 on 3 process"):
        loader(pairs_of_lengths(8), world_size=3)
