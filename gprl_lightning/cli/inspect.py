"""Print a logged group of responses, and compute its advantages again from what is stored.

``python -m gprl_lightning inspect RUN [--iteration N] [--group I] [--rule my.rule]``. The run's own
advantage rule is called again on what it was given. The exit code is 1 if an advantage differs from
the logged one by more than 1e-6, and 2 if there is nothing to show.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from gprl_lightning.cli.console import visible
from gprl_lightning.core.advantage_rule import AdvantageRule
from gprl_lightning.tracking.metrics import per_axis
from gprl_lightning.tracking.rollout_log import (
    ADVANTAGE,
    RULE,
    SCORE,
    STATE,
    LoggedRollout,
    Row,
    logged_iterations,
    rollout_file,
)
from gprl_lightning.tracking.rule_record import rule_of

TOLERANCE = 1e-6


def main(arguments: Sequence[str]) -> int:
    """Show a group. Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gprl_lightning inspect", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--iteration", type=int, help="default: the newest logged one")
    parser.add_argument("--group", type=int, default=0, help="which prompt of it; default: 0")
    parser.add_argument(
        "--rule", help="the run's advantage rule by dotted name, if it is not one of the package's"
    )
    options = parser.parse_args(arguments)
    try:
        iterations, iteration = _choose(options.run, options.iteration)
        logged = _read(options.run, iteration)
        groups = len(logged.groups.vectors)
        rule = rule_of(logged.rows[0][RULE], options.rule)
        if not 0 <= options.group < groups:
            raise LookupError(f"--group {options.group}: expected 0 to {groups - 1}.")
    except LookupError as error:
        sys.stderr.write(f"{error.args[0]}\n")
        return 2
    console = Console(width=max(100, Console().width))
    console.print(f"{rollout_file(options.run, iteration)}   iterations logged: {iterations}")
    console.print(f"iteration {iteration}, group {options.group} of {groups}")
    return 0 if show(console, logged, options.group, rule) else 1


def _choose(run: Path, iteration: int | None) -> tuple[str, int]:
    """The logged iterations, to print, and the chosen one.

    Raises:
        LookupError: nothing is logged, or not this iteration.
    """
    found = logged_iterations(run)
    if not found:
        raise LookupError(
            f"{run}: expected a run's folder with rollouts/iteration_*.csv; found none. "
            "They are written where callbacks=rollout_table is set."
        )
    shown = ", ".join(map(str, found))
    if iteration is not None and iteration not in found:
        raise LookupError(f"--iteration {iteration}: expected one of {shown}.")
    return shown, found[-1] if iteration is None else iteration


def _read(run: Path, iteration: int) -> LoggedRollout:
    """Read a logged rollout.

    Raises:
        LookupError: the file is cut, or not what was written.
    """
    try:
        return LoggedRollout.read(run, iteration)
    except (LookupError, ValueError, TypeError, RuntimeError, csv.Error) as error:
        raise LookupError(
            f"{rollout_file(run, iteration)}: expected a whole rollout, as the run wrote it; found "
            f"one that is cut or changed ({type(error).__name__}: {str(error)[:100]}). Choose "
            "another --iteration."
        ) from error


def show(console: Console, logged: LoggedRollout, group: int, rule: AdvantageRule) -> bool:
    """Print the group; True if all advantages of the iteration follow from what is stored."""
    rows = logged.group(group)
    again = logged.rederived(rule)
    console.rule("prompt")
    console.print(Text(visible(rows[0]["prompt"])))
    console.rule("responses")
    console.print(_responses(rows, again[group], logged.axes))
    console.print(_axes(logged, group))
    console.print(_matrix(logged.win_probabilities()[group], logged.groups.tau))
    console.print(Text(f"advantage rule: {rows[0][RULE]}   state: {rows[0][STATE]}"))
    here = float((again[group] - logged.advantages[group]).abs().max())
    largest = float((again - logged.advantages).abs().max())
    good = largest <= TOLERANCE  # False for NaN
    console.print(
        f"advantages computed again from vectors, eigenvalues and multipliers: largest difference "
        f"{here:.1e} in this group, {largest:.1e} in the iteration: "
        f"{'agree' if good else 'DO NOT AGREE'} to {TOLERANCE:g}",
        style="green" if good else "bold red",
        highlight=False,
    )
    return good


def _responses(rows: list[Row], again: Tensor, axes: tuple[str, ...]) -> Table:
    table = Table(show_lines=True)
    table.add_column("#", justify="right")
    table.add_column("response", ratio=1)
    for name in ("tokens", "stop", "advantage", "again"):
        table.add_column(name, justify="right")
    for axis in axes:
        table.add_column(f"score/{axis}\nadvantage/{axis}", justify="right")
    for index, row in enumerate(rows):
        per = [
            f"{row[per_axis(SCORE, axis)]:+.4f}\n{row[per_axis(ADVANTAGE, axis)]:+.3f}"
            for axis in axes
        ]
        advantage = f"{row['advantage']:+.4f}"
        cells = [str(row["length"]), row["stop_reason"], advantage, f"{again[index]:+.4f}", *per]
        table.add_row(str(index), Text(visible(row["response"])), *cells)
    return table


def _axes(logged: LoggedRollout, group: int) -> Table:
    table = Table(title="axes")
    for name in ("axis", "eigenvalue λ", "multiplier m", "score std in group"):
        table.add_column(name, justify="right")
    std = logged.group_scores[group].std(0, unbiased=False)
    columns = (logged.groups.eigenvalues[group], logged.groups.multipliers, std)
    for axis, values in zip(logged.axes, zip(*columns, strict=True), strict=True):
        table.add_row(axis, *[f"{float(value):.4f}" for value in values])
    return table


def _matrix(probabilities: Tensor, tau: float) -> Table:
    table = Table(title=f"P(row beats column), tau={tau:g}")
    table.add_column("", justify="right")
    for index in range(len(probabilities)):
        table.add_column(str(index), justify="right")
    for index, row in enumerate(probabilities.tolist()):
        table.add_row(str(index), *[f"{value:.2f}" for value in row])
    return table
