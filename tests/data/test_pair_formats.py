"""Every form in which preference pairs are published is read as the conversations that it means."""

from __future__ import annotations

import gzip
import json

import pytest

from gprl_lightning.config.validation import validate
from gprl_lightning.data.pair_formats import PairKeys
from gprl_lightning.data.preferences import make_pair, read_pairs, survey_pairs
from gprl_lightning.errors import ConfigError
from gprl_lightning.tasks.pairs import preference_pairs
from tests.composing import composed

USER = {"role": "user", "content": "Name a colour"}
BLUE, RED = ({"role": "assistant", "content": text} for text in ("Blue", "Red"))
PAIR = make_pair("Name a colour", "Blue", "Red")
PROMPT = {"prompt": "Name a colour"}
STRENGTH = {**PROMPT, "response_1": "Blue", "response_2": "Red"}
TURNS = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name a colour\n\nAssistant: "
LONGER = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    USER,
)
ULTRAFEEDBACK = {"prompt_id": "x", "messages": [USER, BLUE], "score_chosen": 8.5}
MARKED = "Hi\n<extra_id_1>Assistant\nHello.\n<extra_id_1>User\nName a colour"

FORMS = [
    ("texts", {**PROMPT, "chosen": "Blue", "rejected": "Red"}, [PAIR]),
    ("texts", {"prompt": [USER], "chosen": "Blue", "rejected": "Red"}, [PAIR]),
    ("chat", {"prompt": [USER], "chosen": [BLUE], "rejected": [RED]}, [PAIR]),
    ("conversations", {"chosen": [USER, BLUE], "rejected": [USER, RED]}, [PAIR]),
    (
        "conversations",
        {**PROMPT, **ULTRAFEEDBACK, "chosen": [USER, BLUE], "rejected": [USER, RED]},
        [PAIR],
    ),
    ("dialogue", {"chosen": TURNS + "Blue", "rejected": TURNS + "Red"},
     [make_pair(LONGER, "Blue", "Red")]),
    ("continuations", {"chosen": "Name a colour Blue", "rejected": "Name a colour Red"}, [PAIR]),
    ("best of n", {**PROMPT, "chosen": ["Blue"], "rejected": ["Red", "No"]},
     [PAIR, make_pair("Name a colour", "Blue", "No")]),
    ("strengths", {**STRENGTH, "preference_strength": -2}, [PAIR]),
    ("strengths", {**STRENGTH, "preference_strength": 3},
     [make_pair("Name a colour", "Red", "Blue")]),
    ("strengths", {**STRENGTH, "preference_strength": 0},
     [make_pair("Name a colour", "Blue", "Red", label=0.5)]),
    ("strengths", {**STRENGTH, "prompt": MARKED, "preference_strength": -1},
     [make_pair(LONGER, "Blue", "Red")]),
]  # fmt: skip

# All columns of a published data set's rows, as its card lists them.
CHOSEN, REJECTED = [USER, BLUE], [USER, RED]
LAYOUTS = {
    "ultrafeedback_binarized": (
        "conversations",
        {**PROMPT, "prompt_id": "ab12", "chosen": CHOSEN, "rejected": REJECTED,
         "messages": CHOSEN, "score_chosen": 8.5, "score_rejected": 6.0},
    ),
    "reward-bench": (
        "texts",
        {**PROMPT, "chosen": "Blue", "chosen_model": "gpt-4", "rejected": "Red",
         "rejected_model": "gpt-3.5", "subset": "alpacaeval-easy", "id": 30},
    ),
    "HelpSteer2/preference": (
        "strengths",
        {"split": "train", **STRENGTH, "preference_strength": -1,
         "preference_statement": "Response 1 is slightly better than Response 2.",
         "preference_elaboration": "It names one.", "three_most_similar_preferences": [],
         "all_preferences_unprocessed": []},
    ),
    "hh-rlhf": ("dialogue", {"chosen": TURNS + "Blue", "rejected": TURNS + "Red"}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_row_with_all_its_columns(tmp_path, name):
    form, row = LAYOUTS[name]
    found = survey_pairs(write(tmp_path, row), "train", PairKeys())
    assert found.formats == {form: 1}
    asked = LONGER if form == "dialogue" else "Name a colour"
    subset = {"subset": row["subset"]} if "subset" in row else {}
    assert found.pairs == [make_pair(asked, "Blue", "Red", **subset)]


def write(tmp_path, *rows):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.parametrize(("form", "row", "pairs"), FORMS)
def test_each_form(tmp_path, form, row, pairs):
    found = survey_pairs(write(tmp_path, row), "train", PairKeys())
    assert found.pairs == pairs
    assert found.formats == {form: 1}


def test_reward_bench_has_subsets(tmp_path):
    row = {**PROMPT, "chosen": "Blue", "rejected": "Red", "subset": "donotanswer", "id": 3}
    assert read_pairs(write(tmp_path, row))[0].subset == "donotanswer"


def test_gzipped(tmp_path):
    file = tmp_path / "pairs.jsonl.gz"
    with gzip.open(file, "wt") as out:
        out.write(json.dumps(FORMS[0][1]))
    assert read_pairs(file) == [PAIR]


def test_labels_and_margins_act_only_when_named(tmp_path):
    file = write(tmp_path, {**FORMS[0][1], "label": 0.2, "margin": 3})
    plain = survey_pairs(file, "train", PairKeys())
    assert plain.pairs == [PAIR] and plain.unread == ("label", "margin")
    assert any("data.label_key" in note for note in plain.notes())
    (pair,) = survey_pairs(file, "train", PairKeys(label="label", margin="margin")).pairs
    assert (pair.label, pair.margin) == (0.2, 3.0)
    with pytest.raises(ConfigError, match=r"column 'soft' of data.label_key"):
        read_pairs(file, keys=PairKeys(label="soft"))


def test_equal_answers_are_left_out_and_counted(tmp_path):
    same = {**PROMPT, "chosen": "Blue", "rejected": "Blue"}
    found = survey_pairs(write(tmp_path, FORMS[0][1], same), "train", PairKeys())
    assert found.pairs == [PAIR] and found.alike == 1
    assert "1 (50.0%) left out: both answers are the same" in found.notes()


def test_the_keys_of_the_configuration_name_the_columns(tmp_path, capsys):
    rows = [{"ask": f"{i}", "good": "Blue", "bad": "Red", "sure": 0.7} for i in range(4)]
    keys = ("prompt_key=ask", "chosen_key=good", "rejected_key=bad", "label_key=sure")
    cfg = composed(
        "experiment=train_preference_model",
        f"data.path={write(tmp_path, *rows)}",
        "data.held_out=1",
        "preference_training.backbone=sandbox",
        *[f"data.{key}" for key in keys],
    )
    train, held_out = preference_pairs(validate(cfg))
    assert len(train) == 3 and len(held_out) == 1
    assert {p.label for p in train} == {0.7} and train[0].answers == ("Blue", "Red")
    assert "4 pairs of 4 rows (4 texts)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "answer": "a"}, "data.chosen_key and data.rejected_key name"),
        ({"chosen": "Blue", "rejected": "Red"}, "or begin as 'rejected' does"),
        ({"chosen": ["a"], "rejected": ["b"]}, "expected 'prompt' beside lists"),
        ({"chosen": TURNS.rstrip()[:-10], "rejected": TURNS}, "ends with 'Assistant:'"),
        ({**STRENGTH, "preference_strength": 4}, "from -3 to 3; found 4"),
    ],
)
def test_what_is_none_of_them_is_refused_by_line(tmp_path, row, message):
    file = write(tmp_path, FORMS[0][1], row)
    with pytest.raises(ConfigError, match=message) as refused:
        read_pairs(file)
    assert str(refused.value).startswith(f"{file}:2:")


def test_pairs_of_ones_own_take_a_file_and_a_backbone():
    with pytest.raises(ConfigError) as refused:
        validate(composed("experiment=train_preference_model"))
    assert "data.path=... preference_training.backbone=..." in str(refused.value)
