"""Write the report of a finished run again, or the page of a grid: ``report FOLDER``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gprl_lightning.study.page import write_study
from gprl_lightning.study.runs import is_grid
from gprl_lightning.tracking.loggers import read_metrics
from gprl_lightning.tracking.report import print_table, summary_rows, write_report
from gprl_lightning.tracking.run_folder import cautions_of, judge_of


def main(arguments: Sequence[str]) -> int:
    """Write ``report.png`` of a run, or ``report/`` of a grid. Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gprl_lightning report", description=(__doc__ or "").strip()
    )
    parser.add_argument("folder", type=Path, help="of a run, or of a grid of runs")
    parser.add_argument(
        "--tuning-seeds", type=_numbers, default=[], metavar="0,1,2",
        help="seeds of a grid that choose β, clock and KL trigger, and are not compared",
    )  # fmt: skip
    parser.add_argument(
        "--looks", type=_numbers, default=[], metavar="10,20",
        help="numbers of seeds at which a grid is judged, the planned one last",
    )  # fmt: skip
    asked = parser.parse_args(arguments)
    folder: Path = asked.folder
    if is_grid(folder):
        print(write_study(folder, asked.tuning_seeds, asked.looks))
        return 0
    columns = read_metrics(folder / "metrics.csv")
    print_table(summary_rows(columns, cautions_of(folder), judge_of(folder)), str(folder))
    print(write_report(folder))
    return 0


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
