"""Write the report of a run again, beside other runs, or the page of a grid: ``report FOLDER``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from yaml import YAMLError

from gprl_lightning.errors import ConfigError
from gprl_lightning.study.page import write_study
from gprl_lightning.study.runs import is_grid
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.report import print_table, summary_rows, write_report
from gprl_lightning.tracking.report_page import write_page
from gprl_lightning.tracking.run_folder import cautions_of, judge_of


def main(arguments: Sequence[str]) -> int:
    """Write ``report.png`` and ``report.html`` of a run, or ``report/`` of a grid.

    Returns:
        The exit code.

    Raises:
        ConfigError: a folder that is neither, or a grid among the others.
    """
    parser = argparse.ArgumentParser(
        prog="python -m gprl_lightning report",
        description="Write report.png and report.html of a run again, or the page of a grid.",
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run's folder, or a grid's")
    parser.add_argument(
        "others", type=Path, nargs="*", metavar="OTHER",
        help="folders of other runs: their curves and answers are shown beside this run's",
    )  # fmt: skip
    parser.add_argument(
        "--tuning-seeds", type=_numbers, default=[], metavar="0,1,2",
        help="of a grid: seeds that choose β, clock and KL trigger, and are not compared",
    )  # fmt: skip
    parser.add_argument(
        "--looks", type=_numbers, default=[], metavar="10,20",
        help="of a grid: numbers of seeds at which it is judged, the planned one last",
    )  # fmt: skip
    asked = parser.parse_args(arguments)
    folder: Path = asked.folder
    for path in (folder, *asked.others):
        if not path.is_dir():
            raise ConfigError(
                f"report {path}: expected the folder of a run or of a grid; found none."
            )
    try:
        _write(folder, asked)
    except ConfigError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, YAMLError) as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise ConfigError(
            f"report {folder}: expected metrics.csv, summary.json and config.yaml as a run wrote "
            f"them; found one that is cut or changed ({found}). Put it back, or run it again."
        ) from error
    return 0


def _write(folder: Path, asked: argparse.Namespace) -> None:
    if is_grid(folder):
        if asked.others:
            raise ConfigError(f"report {folder}: a grid's page takes no other folder beside it.")
        print(write_study(folder, asked.tuning_seeds, asked.looks))
        return
    for path in (folder, *asked.others):
        if not (path / "metrics.csv").is_file():
            raise ConfigError(
                f"report {path}: expected a run's folder, which holds metrics.csv, or a grid's, "
                "which holds such folders; found neither."
            )
    columns = read_metrics(folder / "metrics.csv")
    print_table(summary_rows(columns, cautions_of(folder), judge_of(folder)), str(folder))
    print(write_report(folder))
    print(write_page(folder, asked.others))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
