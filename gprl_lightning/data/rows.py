"""Rows of data files and hub data sets, each with its place. Ours.

JSON Lines (also gzipped), JSON (a list of rows) and parquet. What is wrong with a file is said with
its line, as an editor counts them, before anything else is done with its rows.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from gprl_lightning.errors import ConfigError

ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".parquet")
LONGEST_LINE = 1 << 26  # characters: a file without line ends is not read into memory whole
DEEPEST = 100  # lists and objects in one another; json, repr and copies recurse
SHOWN = 60  # characters of what was found
# The longer ones first: UTF-32's begins as UTF-16's does.
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
PlacedRow = tuple[str, Any]  # where it stands, for messages, and what it is


def rows_of(path: str, split: str, key: str = "data.path") -> Iterator[PlacedRow]:
    """Return the rows of a file, or of a data set on the hub, with their places.

    Args:
        path: a file with one of `ENDINGS`, or a hub name.
        split: of a hub data set.
        key: the configuration key of the path, for messages.

    Raises:
        ConfigError: there is no such file or data set, or it is damaged.
    """
    file = Path(path).expanduser()
    if path.endswith(ENDINGS):
        return file_rows(file, key)
    if file.exists() or path.startswith((".", "/", "~")):
        raise ConfigError(
            f"{key}={path!r}: expected a file with one of the endings {', '.join(ENDINGS)}, or the "
            f"name of a data set on the hub. Rename or convert the file, or correct {key}."
        )
    return _hub_rows(path, split, key)


def file_rows(file: Path, key: str = "data.path") -> Iterator[PlacedRow]:
    """Return the rows of a file with their places. Raises as `rows_of`."""
    if not file.is_file():
        raise ConfigError(f"{key}={str(file)!r}: there is no such file. Correct {key}.")
    if file.suffix == ".parquet":
        return _parquet_rows(file, key)
    return _json_rows(file, key)


def shown(value: Any) -> str:
    """Return the beginning of what was found, for a message."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"


def _json_rows(file: Path, key: str) -> Iterator[PlacedRow]:
    fix = f"Correct {key}, or the file."
    opened: Any = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rb") as stream:
            beginning = stream.read(4)
        for mark, name in MARKS.items():
            if beginning.startswith(mark):
                _refuse(f"{file}:1", "UTF-8", f"{name}, by its first bytes", f"Convert it. {fix}")
        with opened(file, "rt", encoding="utf-8-sig", errors="surrogateescape") as text:
            whole = _whole(file, text, fix) if file.suffix == ".json" else None
            if whole is not None:
                yield from whole
                return
            text.seek(0)
            for number, line in enumerate(_lines(file, text, fix), 1):
                if line.strip():
                    place = f"{file}:{number}"
                    yield place, _parsed(line.strip(), place, fix)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{key}={str(file)!r}: cannot be read: {error}. {fix}") from error


def _lines(file: Path, text: TextIO, fix: str) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            size = f"lines of less than {LONGEST_LINE >> 20} million characters"
            _refuse(f"{file}:{number}", size, "a longer one", fix)
        yield line


def _whole(file: Path, text: TextIO, fix: str) -> list[PlacedRow] | None:
    """The rows of a file that is one list or one object; None if it holds one row per line."""
    content = text.read()
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        if not content.lstrip().startswith("["):
            return None
    _require_utf8(content, f"{file}", fix)
    found = _parsed(content, f"{file}", fix)
    rows = found if isinstance(found, list) else [found]
    return [(f"{file}: row {number}", row) for number, row in enumerate(rows, 1)]


def _parsed(text: str, where: str, fix: str) -> Any:
    _require_utf8(text, where, fix)
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}" if "\n" in text else where
        beginning = text.split("\n")[error.lineno - 1].strip()[:SHOWN]
        what = f"found {beginning!r} ({error.msg})"
        if "\0" in text:
            what = "found NUL bytes: the file was cut by a full disk, or is not UTF-8"
        raise ConfigError(
            f"{place}: not a JSON object; expected one in each line, {what}. {fix}"
        ) from None
    except RecursionError:
        _refuse(where, f"at most {DEEPEST} lists and objects in one another", "more", fix)
    except ValueError as error:  # a number of more digits than Python converts
        _refuse(where, "numbers of an ordinary length", str(error).partition(";")[0], fix)
    if sum(map(text.count, "[{")) > DEEPEST and _too_deep(found):
        _refuse(where, f"at most {DEEPEST} lists and objects in one another", "more", fix)
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(found, ensure_ascii=False).encode("utf8")
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            _refuse(where, "text", f"half a character, {half!a}, which no text can hold", fix)
    return found


def _require_utf8(text: str, where: str, fix: str) -> None:
    """Bytes that are no UTF-8 were read as U+DC80 to U+DCFF."""
    if text.isascii():
        return
    bad = next((place for place, c in enumerate(text) if "\udc80" <= c <= "\udcff"), None)
    if bad is not None:
        before = text[max(0, bad - 20) : bad].encode("ascii", "backslashreplace").decode()
        _refuse(
            where,
            "UTF-8",
            f"the byte 0x{ord(text[bad]) - 0xDC00:02x} behind {before!r}, as in Latin-1",
            f"Convert it (iconv -f latin1 -t utf8). {fix}",
        )


def _too_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(DEEPEST):
        inner = [v for v in layer if isinstance(v, (list, dict))]
        layer = [c for v in inner for c in (v.values() if isinstance(v, dict) else v)]
        if not layer:
            return False
    return True


def _parquet_rows(file: Path, key: str) -> Iterator[PlacedRow]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(
            f"{key}={str(file)!r} needs the pyarrow package: pip install 'gprl-lightning[data]'."
        ) from None

    def rows() -> Iterator[Any]:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()

    wanted = "expected a whole parquet file. Replace it, or correct"
    return _placed(rows, f"{file}", f"{key}={str(file)!r}", f"{wanted} {key}.")


def _hub_rows(name: str, split: str, key: str) -> Iterator[PlacedRow]:
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            f"{key}={name!r} needs the datasets package: pip install 'gprl-lightning[data]'."
        ) from None

    def rows() -> Iterator[Any]:
        yield from datasets.load_dataset(name, split=split)

    wanted = f"expected a file ({', '.join(ENDINGS)}), or the name of a data set on the hub"
    where = f"{key}={name!r}, {key.removesuffix('path')}split={split!r}"
    return _placed(rows, name, where, f"{wanted}. Correct {key}.")


def _placed(rows: Any, source: str, where: str, expected: str) -> Iterator[PlacedRow]:
    """Number the rows of another library; what it raises becomes one line."""
    try:
        for number, row in enumerate(rows(), 1):
            yield f"{source}: row {number}", row
    except Exception as error:
        found = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{where}: cannot be loaded: {type(error).__name__}: {found}; {expected}"
        ) from error


def _refuse(where: str, expected: str, found: str, fix: str) -> NoReturn:
    raise ConfigError(f"{where}: expected {expected}; found {found}. {fix}")


def require_some(rows: Iterable[Any], path: str, key: str) -> None:
    """Raise ConfigError if there are no rows."""
    if not rows:
        raise ConfigError(f"{key}={path!r}: expected at least one row; found no rows.")
