"""Gather benchmarks by method beside the paper's figures: ``paper-table RUNS…``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gprl_lightning.benchmarks.paper_table import as_csv, cells, markdown, picture, read_results


def main(arguments: Sequence[str]) -> int:
    """Print the table, and write it as Markdown, CSV and a picture. Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gprl_lightning paper-table", description=(__doc__ or "").strip()
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, or of many of them")
    parser.add_argument("--out", type=Path, default=Path("."), help="where the files go")
    options = parser.parse_args(arguments)
    found = cells(read_results(options.runs))
    table, out = markdown(found), options.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "paper_table.md").write_text(table, encoding="utf8")
    (out / "paper_table.csv").write_text(as_csv(found), encoding="utf8")
    file = picture(found, out / "paper_table.png")
    print(table)
    print(f"{out / 'paper_table.md'}, {out / 'paper_table.csv'}, {file}")
    return 0
