"""Rated responses, one to a row (HelpSteer2), as pairs with a label for each rating."""

from __future__ import annotations

import json

import pytest

from gprl_lightning.data.pair_formats import PairKeys
from gprl_lightning.data.preferences import survey_pairs
from gprl_lightning.errors import ConfigError

NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def rated(prompt: str, response: str, *ratings: float) -> dict:
    return {"prompt": prompt, "response": response, **dict(zip(NAMES, ratings, strict=True))}


ROWS = [
    rated("Name a colour", "Red", 1, 4, 3, 1, 0),
    rated("Name a colour", "Blue", 3, 4, 2, 1, 2),
    rated("Alone", "Nobody answers twice", 1, 1, 1, 1, 1),
    rated("Sing", "La", 2, 0, 4, 1, 1),
    rated("Sing", "Lalala", 2, 1, 4, 1, 3),
    rated("Sing", "No", 0, 0, 0, 0, 0),
]


def survey(tmp_path, rows, **keys):
    file = tmp_path / "rated.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return survey_pairs(file, "train", PairKeys(**keys))


def test_rows_of_a_prompt_are_pairs_with_attributes(tmp_path):
    found = survey(tmp_path, ROWS)
    assert dict(found.formats) == {"ratings": 2}
    first, *sing = found.pairs
    assert (first.answers, first.label) == (("Blue", "Red"), 1.0)
    assert first.attributes == dict(zip(NAMES, (1.0, 0.5, 0.0, 0.5, 1.0), strict=True))
    assert [pair.answers for pair in sing] == [("La", "Lalala"), ("La", "No"), ("Lalala", "No")]
    assert [pair.label for pair in sing] == [0.5, 1.0, 1.0]
    assert sing[0].attributes["verbosity"] == 0.0  # of the first one, by its place


def test_another_rating_decides(tmp_path):
    found = survey(tmp_path, ROWS, rating="coherence")
    assert found.pairs[0].answers == ("Red", "Blue")
    assert found.pairs[0].attributes["helpfulness"] == 0.0
    with pytest.raises(ConfigError, match=r"the column .tone. of rated responses; found"):
        survey(tmp_path, ROWS, rating="tone")


def test_a_column_splits_the_reports(tmp_path):
    rows = [{**row, "domain": row["prompt"].lower()} for row in ROWS]
    found = survey(tmp_path, rows, subset="domain")
    assert [pair.subset for pair in found.pairs] == ["name a colour", "sing", "sing", "sing"]
    plain = [{"prompt": "x", "chosen": "a", "rejected": "b", "kind": "k", "subset": "s"}]
    assert survey(tmp_path, plain).pairs[0].subset == "s"
    assert survey(tmp_path, plain, subset="kind").pairs[0].subset == "k"
    with pytest.raises(ConfigError, match=r"the column 'kinds' of data\.subset_key"):
        survey(tmp_path, plain, subset="kinds")


def test_other_rows_are_left_as_they_are(tmp_path):
    mixed = [{"prompt": "x", "chosen": "a", "rejected": "b"}, *ROWS[:2], ROWS[3]]
    assert dict(survey(tmp_path, mixed).formats) == {"texts": 1, "ratings": 1}
