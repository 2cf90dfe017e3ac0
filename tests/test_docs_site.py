"""The docs site: it builds without a warning, and says of the code what the code says."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gprl_lightning.config import Config
from gprl_lightning.config.run import DataConfig
from gprl_lightning.config.validation import validate
from gprl_lightning.errors import ConfigError
from tests.composing import ROOT, composed

sys.path.append(str(ROOT / "docs" / "site"))  # hooks of MkDocs, which loads them by file

import algorithm_pages
import reference_pages

DOCS = ROOT / "docs"
KEYS = reference_pages.keys_page(ROOT)
INLINE = re.compile(r"`([a-z_]+(?:[./][a-z_]+)*=[^\s`…]+)`")


def _fields(schema, prefix=""):
    """(key, default) of every field of the dataclasses themselves."""
    for field in dataclasses.fields(schema):
        value = getattr(schema(), field.name)
        inner = type(value) if dataclasses.is_dataclass(value) else None
        yield f"{prefix}{field.name}", None if inner else value
        if inner:
            yield from _fields(inner, f"{prefix}{field.name}.")


def test_the_site_builds_without_a_warning(tmp_path):
    """Every link and anchor leads somewhere, and every page is in the navigation."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for page in ("index", "api", "reference/keys", "algorithms/dapo", "source/conf/config.yaml"):
        assert page == "source/conf/config.yaml" or (tmp_path / f"{page}.html").exists()
    api = (tmp_path / "api.html").read_text(encoding="utf8")
    assert "load_preference_model" in api and "pairwise_scores" in api
    text = (tmp_path / "index.html").read_text(encoding="utf8")
    assert not re.findall(r'<(?:script|link)[^>]+(?:src|href)="https?:', text)  # works offline


def test_every_key_has_a_row_with_its_default():
    rows = {row.split("`")[1]: row for row in KEYS.splitlines() if row.startswith("| `")}
    wanted = dict(_fields(Config))
    assert set(wanted) - set(rows) == set()
    for key, default in wanted.items():
        if default is not None:
            shown = rows[key].split("`")[5]
            assert ast.literal_eval(shown) == default, key


def test_a_range_is_the_one_that_is_checked():
    row = next(line for line in KEYS.splitlines() if line.startswith("| `data.max_prompt_tokens`"))
    assert "| >= 1 |" in row
    with pytest.raises(ConfigError, match=">= 1"):
        DataConfig(max_prompt_tokens=0)
    assert "`per_axis`, `global`" in KEYS and "| in [0, 1) |" in KEYS


@pytest.mark.parametrize("word", algorithm_pages.words(ROOT))
def test_an_algorithm_s_page_has_its_command_configuration_and_source(word):
    page = algorithm_pages.page(ROOT, word)
    (command,) = re.findall(r"^python train\.py (.+)$", page, re.MULTILINE)
    validate(composed(*command.split()))
    assert f"name: {word.removesuffix('_bt')}" in page
    assert "```python\nclass " in page or "```python\n@dataclass" in page


@pytest.mark.parametrize("page", ["recipes", "quick_start", "reading_a_run", "concepts"])
def test_what_a_page_tells_to_type_are_words_of_the_configuration(page):
    text = (DOCS / f"{page}.md").read_text(encoding="utf8")
    commands = re.findall(r"^python train\.py ([^#\n]+)|`python train\.py ([^`]+)`", text, re.M)
    typed = [word for found in commands for part in found for word in part.split()]
    words = [
        w for w in (*typed, *INLINE.findall(text)) if not w.startswith(("--", "hydra.", "grid"))
    ]
    for word in sorted(set(words)):
        composed("experiment=study", word) if "${" in word else composed(word)


def test_commands_of_the_package_are_its_own():
    from gprl_lightning.__main__ import COMMANDS

    texts = "".join(f.read_text(encoding="utf8") for f in DOCS.glob("*.md"))
    assert set(re.findall(r"python -m gprl_lightning ([a-z-]+)", texts)) <= set(COMMANDS)


def test_the_findings_read_in_five_minutes_and_lose_nothing():
    words = len((DOCS / "study.md").read_text(encoding="utf8").split())
    assert words < 1200
    tables = (DOCS / "study_tables.md").read_text(encoding="utf8")
    assert tables.count("\n## ") >= 4 and len(tables.split()) > 8000


def test_figures_of_the_findings_are_in_the_tables():
    """Each number with two digits or more, as it is written."""
    tables = (DOCS / "study_tables.md").read_text(encoding="utf8").replace("0.", ".")
    found = re.findall(r"(?<![\d.])\.\d\d\b|[+−]\d\d\b", (DOCS / "study.md").read_text("utf8"))
    assert len(found) > 30
    assert [n for n in found if n not in tables and n.replace("−", "-") not in tables] == []


def test_pictures_are_small():
    for file in DOCS.glob("*.png"):
        assert file.stat().st_size < 400_000, Path(file).name
