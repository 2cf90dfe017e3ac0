"""Files with one thing wrong, as prompts, as pairs and as a benchmark's rows: refused by line."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gprl_lightning.benchmarks.files import read_rows
from gprl_lightning.config import DataConfig
from gprl_lightning.config.validation import validate
from gprl_lightning.data.messages import LONGEST_TEXT
from gprl_lightning.data.preferences import PairKeys, read_pairs, survey_pairs
from gprl_lightning.data.prompts import load_prompts
from gprl_lightning.errors import ConfigError
from gprl_lightning.tasks.pairs import preference_pairs
from tests.composing import composed

ROW = '{"prompt": "say %s", "chosen": "yes", "rejected": "no"}'
LINES = [ROW % "hello", "", ROW % "bye"]


def prompts(file: Path | str):
    return load_prompts(DataConfig(path=str(file), held_out=0))[0]


READERS: dict[str, Callable[[Path], object]] = {
    "prompts": prompts,
    "pairs": read_pairs,
    "questions": read_rows,
}


def text(*lines: str) -> bytes:
    return "\n".join([*LINES, *lines]).encode("utf8")


DEEP = "[" * 10_000 + "]" * 10_000
# What is planted, the line that is named, and a word of the message. Line 2 is blank.
FILES = {
    "Latin-1": (text() + "\n{'café'}".encode("latin1"), ":4:", "the byte 0xe9 behind"),
    "UTF-16": (text().decode().encode("utf-16"), ":1:", "found UTF-16"),
    "UTF-32": (text().decode().encode("utf-32"), ":1:", "found UTF-32"),
    "UTF-16 without its mark": (text().decode().encode("utf-16-le"), ":1:", "found NUL bytes"),
    "half a character": (text(ROW % "\\ud800"), ":4:", "half a character, '\\ud800'"),
    "10,000 brackets": (text('{"prompt": ' + DEEP + "}"), ":4:", "at most 100 lists"),
    "200 brackets": (text('{"prompt": ' + "[" * 200 + "]" * 200 + "}"), ":4:", "at most 100"),
    "a number of 5,000 digits": (text('{"prompt": ' + "7" * 5000 + "}"), ":4:", "numbers of"),
    "NUL bytes": (text("\0" * 64), ":4:", "found NUL bytes"),
    "a cut line": (text('{"prompt": "say'), ":4:", 'found \'{"prompt": "say\' (Unterminated'),
    "no object": (text("[1, 2]"), ":4:", "found list"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("fault", FILES)
def test_a_damaged_file_is_refused_with_the_line_that_an_editor_shows(fault, reader, tmp_path):
    content, place, found = FILES[fault]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        READERS[reader](file)
    message = str(refused.value)
    assert message.startswith(f"{file}{place}") and found in message, message
    assert len(message) < 400 + len(str(file)) and "\n" not in message
    assert file.read_bytes() == content


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl.gz", "rows.json"])
def test_damaged_files_of_other_kinds(reader, name, tmp_path):
    file = tmp_path / name
    file.write_bytes(gzip.compress(text())[:-9] if name.endswith("gz") else b'[{"prompt": "PAR1')
    with pytest.raises(ConfigError) as refused:
        READERS[reader](file)
    message = str(refused.value)
    assert str(file) in message and "the name of a data set" not in message
    assert "\n" not in message and len(message) < 600


@pytest.mark.parametrize("reader", READERS)
def test_what_is_unusual_and_right_works(reader, tmp_path):
    """A byte-order mark of UTF-8, other line ends, a list of rows, letters of all kinds."""
    rows = [ROW % "hello", ROW % "\\ud83d\\ude00 ümläut", ROW % "\u2028 line"]
    whole = f"[\n{', '.join(rows)}\n]"
    pretty = json.dumps([json.loads(row) for row in rows], indent=2, ensure_ascii=False)
    forms = {
        "bom.jsonl": b"\xef\xbb\xbf" + "\n".join(rows).encode(),
        "crlf.jsonl": "\r\n".join([*rows, ""]).encode(),
        "cr.jsonl": "\r".join(rows).encode(),
        "whole.json": whole.encode(),
        "pretty.json": pretty.encode(),
        "lines.json": "\n\n".join(rows).encode(),
        "zipped.jsonl.gz": gzip.compress("\n".join(rows).encode()),
    }
    found = []
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
        found.append(READERS[reader](tmp_path / name))
    assert len(found[0]) == 3 and all(other == found[0] for other in found)  # type: ignore[arg-type]


def test_parquet_is_read_without_a_cache(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setenv("HF_HOME", "/proc/nowhere")
    file = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([json.loads(line) for line in LINES[::2]]), file)
    assert [p.messages[0]["content"] for p in prompts(file)] == ["say hello", "say bye"]
    assert [pair.answers for pair in read_pairs(file)] == [("yes", "no")] * 2
    assert len(read_rows(file)) == 2


def chat(*turns: tuple[object, object]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]


ASKED = ("user", "hi")
MESSAGES = {
    "system behind user": (chat(ASKED, ("system", "be kind"), ASKED), "one as message 2"),
    "two system prompts": (chat(("system", "a"), ("system", "b"), ASKED), "one as message 2"),
    "unknown role": (chat(("tool", "42"), ASKED), "found 'tool' in message 1"),
    "a role that is no text": (chat(([], "42"), ASKED), "found [] in message 1"),
    "a role that is missing": ([{"content": "hi"}], "with 'role' and 'content'"),
    "a content of parts": (chat(("user", [{"type": "text"}])), "a text as 'content'"),
    "a NUL character": (chat(("user", "a\0b")), "a NUL character in message 1"),
    "10 MB": (chat(("user", "word " * 2_000_000)), "10,000,000 characters (at most 4,194,304)"),
}


@pytest.mark.parametrize("fault", MESSAGES)
def test_messages_that_are_refused_in_prompts_and_pairs_alike(fault, tmp_path):
    messages, found = MESSAGES[fault]
    file = tmp_path / "rows.jsonl"
    row = {"prompt": messages, "chosen": "yes", "rejected": "no"}
    file.write_text("\n".join([*LINES, json.dumps(row)]))
    started = time.perf_counter()
    for reader in (prompts, read_pairs):
        with pytest.raises(ConfigError) as refused:
            reader(file)
        message = str(refused.value)
        assert message.startswith(f"{file}:4: ") and found in message and len(message) < 400
    assert time.perf_counter() - started < 2


ALIKE = {"chosen": "a", "rejected": "a"}
BLANK = [chat(("user", " \n")), chat(("system", ""), ASKED), chat(("user", ""), ("assistant", "a"))]


@pytest.mark.parametrize("value", ["", " \t\n", *BLANK])
def test_blank_prompts_are_refused_and_blank_pairs_left_out_and_counted(value, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": value}))
    with pytest.raises(ConfigError, match=r":1: 'prompt' must be a text.*none blank"):
        prompts(file)
    asked = chat(("user", value)) if isinstance(value, str) else value
    row = {"prompt": [m for m in asked if m["role"] != "assistant"], "chosen": "a", "rejected": "b"}
    file.write_text("\n".join([*LINES, json.dumps(row)]))
    found = survey_pairs(file, "train", PairKeys())
    assert len(found.pairs) == 2 and found.blank == 1
    assert any("a blank message in the prompt" in note for note in found.notes())


def test_pairs_that_are_all_left_out_are_counted(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": " ", "chosen": "a", "rejected": "b"}, {"prompt": "a", **ALIKE}]
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match="found 1 of equal answers, 1 of blank prompts"):
        read_pairs(file)


@pytest.mark.parametrize("margin", [float("inf"), float("nan"), 10**400, "2", True, -1])
def test_a_margin_is_a_number(margin, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**json.loads(LINES[0]), "margin": margin}))
    with pytest.raises(ConfigError, match="'margin' must be a number"):
        read_pairs(file, keys=PairKeys(margin="margin"))


def test_a_text_at_the_limit_is_read(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "a" * LONGEST_TEXT}))
    assert len(prompts(file)[0].messages[0]["content"]) == LONGEST_TEXT


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.csv", "folder"])
def test_a_file_that_is_none_of_them_is_not_taken_for_a_hub_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).write_text("hello")
    for reader in (prompts, read_pairs):
        with pytest.raises(ConfigError, match=r"data\.path='.*one of the endings \.jsonl"):
            reader(name)


def write(file: Path, *names: str) -> str:
    file.write_text("".join(ROW % name + "\n" for name in names))
    return str(file)


def test_prompts_that_are_held_out_are_not_trained_on(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", "a", "b", "c", "b")
    train, held_out = load_prompts(DataConfig(path=path, held_out=1))
    assert [p.uid for p in train] == [0, 2] and [p.uid for p in held_out] == [3]
    assert "1 prompts left out of the training" in capsys.readouterr().out
    other = write(tmp_path / "b.jsonl", "c", "d")
    train, held_out = load_prompts(DataConfig(path=path, held_out=1, held_out_path=other))
    assert [p.uid for p in train] == [0, 1, 3] and [p.uid for p in held_out] == [4]
    with pytest.raises(ConfigError, match=r"data\.held_out=4: .*that all 4 of .* are"):
        load_prompts(DataConfig(path=path, held_out=4, held_out_path=path))


def test_pairs_that_are_held_out_are_not_trained_on(tmp_path, capsys):
    def pairs(held_out: str):
        path = write(tmp_path / "a.jsonl", "a", "b", "c")
        return preference_pairs(
            validate(
                composed(
                    "experiment=train_preference_model",
                    f"data.path={path}",
                    f"data.held_out_path={held_out}",
                    "preference_training.backbone=sandbox",
                )
            )
        )

    train, held_out = pairs(write(tmp_path / "b.jsonl", "c", "d"))
    assert len(train) == 2 and len(held_out) == 2
    assert "1 pairs left out: they are held out, too" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"data\.held_out_path=.*found all 3 of them"):
        pairs(str(tmp_path / "a.jsonl"))


def test_a_fault_in_the_held_out_file_names_its_key(tmp_path):
    good, bad = write(tmp_path / "a.jsonl", "a"), tmp_path / "b.jsonl"
    bad.write_text("{")
    with pytest.raises(ConfigError, match=r"b\.jsonl:1: .*data\.held_out_path"):
        load_prompts(DataConfig(path=good, held_out_path=str(bad)))
