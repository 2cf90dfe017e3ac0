"""Write the baselines' page of a grid: ``baselines FOLDER``, or of a record that was kept."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from gprl_lightning.errors import ConfigError
from gprl_lightning.study.baselines import record_of, write_record
from gprl_lightning.study.baselines_figure import picture_of
from gprl_lightning.study.baselines_page import BEGIN, END, measured_part, with_measured
from gprl_lightning.study.figures import save

RECORD = "baselines.json"


def main(arguments: Sequence[str]) -> int:
    """Write page, picture and record. Return the exit code.

    Raises:
        ConfigError: a folder without finished runs, or a page without the two marks.
    """
    parser = argparse.ArgumentParser(
        prog="python -m gprl_lightning baselines", description=(__doc__ or "").strip()
    )
    parser.add_argument("source", type=Path, help=f"the grid's folder, or a {RECORD}")
    parser.add_argument(
        "--page", type=Path,
        help="a Markdown file whose measured part is replaced; its picture goes beside it and the "
        "record into data/; default: SOURCE/report/baselines.md",
    )  # fmt: skip
    asked = parser.parse_args(arguments)
    try:
        page = _write(asked.source, asked.page)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    print(page)
    return 0


def _write(source: Path, page: Path | None) -> Path:
    record = json.loads(source.read_text("utf8")) if source.is_file() else record_of(source)
    if page is None:
        folder = source.parent if source.is_file() else source
        page = folder / "report" / "baselines.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(f"{BEGIN}\n{END}\n", encoding="utf8")
    picture = page.with_suffix(".png")
    text = with_measured(page.read_text("utf8"), measured_part(record, picture.name))
    save(picture_of(record), picture)
    write_record(record, page.parent / "data" / RECORD)
    page.write_text(text, encoding="utf8")
    return page
