"""docs/own.md: its commands are valid, and its rows are read as it says."""

from __future__ import annotations

import json
import re

import pytest

from gprl_lightning.config.validation import validate
from gprl_lightning.data.pair_formats import PairKeys
from gprl_lightning.data.preferences import make_pair, survey_pairs
from tests.composing import ROOT, composed
from tests.test_readme import _real

TEXT = (ROOT / "docs" / "own.md").read_text(encoding="utf8")
COMMANDS = re.findall(r"^python train\.py (.+)$", TEXT, re.MULTILINE)
ROWS = re.findall(r"^\| ([\w ]+)(?: \([^|]*\))? \| `(\{.*\})` \|$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_valid_configuration(command, tmp_path):
    arguments = [a.replace("my/backbone", "sandbox") for a in command.split()]
    validate(composed(*_real(arguments, tmp_path)))


def test_there_are_seven_forms():
    assert len(ROWS) == 7


@pytest.mark.parametrize(("form", "row"), ROWS)
def test_every_row_is_read_as_its_form(form, row, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(json.loads(row)))
    found = survey_pairs(file, "train", PairKeys())
    assert list(found.formats) == [form]
    assert found.pairs[0] == make_pair("Name a colour", "Blue", "Red")
