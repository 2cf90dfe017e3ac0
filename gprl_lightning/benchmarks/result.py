"""A benchmark's result: ``benchmark.json``, and the table on the console."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gprl_lightning.benchmarks.protocol import Figure, Report
from gprl_lightning.runtime.chat import Price, Usage
from gprl_lightning.tracking.provenance import provenance, write_json

RESULT_FILE = "benchmark.json"


@dataclass(frozen=True)
class Result:
    """A report, with all that it depends on.

    Attributes:
        method: the run's name, by which tables sort.
        judge: the name that the endpoint was asked for; `judge_reported` is its own word.
        judge_extra: fields of the judge's requests that the benchmark's authors do not send.
        published_questions: True if the questions are those that were published, all of them;
            None if nobody can tell.
        biased: True if the judge's position bias is too large to be ignored.
        seconds: that each part took.
    """

    benchmark: str
    method: str
    model: str
    judge: str
    published_judge: str
    judge_reported: tuple[str, ...]
    judge_extra: Mapping[str, Any]
    questions: int
    published_questions: bool | None
    report: Report
    biased: bool
    usage: Usage
    price: Price | None
    seconds: Mapping[str, float]

    def final(self) -> dict[str, float]:
        """Return the figures by name, for ``summary.json``."""
        return {f"{self.benchmark}/{f.name}": f.value for f in self.report.figures}

    def warnings(self) -> list[str]:
        """Return what makes the figures something else than the published ones."""
        report, found = self.report, []
        if report.missing:
            reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(report.missing.items()))
            total = sum(report.missing.values())
            found.append(f"{total} of {report.wanted} verdicts are missing: {reasons}.")
        if self.judge != self.published_judge:
            found.append(
                f"Judged by {self.judge}, not by the published judge {self.published_judge}: not "
                "comparable with published figures."
            )
        if self.judge_extra:
            found.append(
                f"The judge was asked with {dict(self.judge_extra)}, which is not published."
            )
        if self.published_questions is False:
            found.append(f"{self.questions} questions, which are not the published set.")
        if self.biased and report.position is not None:
            found.append(
                f"Position bias: the answer that stood first won {report.position.first_wins:.1%}. "
                "The figures are not to be trusted."
            )
        return found


def write_result(result: Result, folder: Path) -> Path:
    """Write ``benchmark.json``. Return the file."""
    content: dict[str, Any] = asdict(result)
    content["warnings"] = result.warnings()
    content["cost"] = None if result.price is None else result.usage.cost(result.price)
    file = folder / RESULT_FILE
    write_json(file, content | provenance())
    return file


def print_result(result: Result) -> None:
    """Print the figures as a table, and under it what a reader has to know."""
    from rich.console import Console
    from rich.table import Table

    report = result.report
    table = Table(title=f"{result.benchmark}: {result.model}", show_header=False)
    for figure in report.figures:
        table.add_row(figure.label, shown(figure, result.biased), figure.interval)
    if report.position is not None:
        bias = report.position
        interval = f"95 %: {bias.low:.1%} to {bias.high:.1%}, of {bias.comparisons}"
        table.add_row("the first answer wins", f"{bias.first_wins:.1%}", interval)
    counted = report.wanted - sum(report.missing.values())
    table.add_row("verdicts", f"{counted} of {report.wanted}", "")
    for name, seconds in result.seconds.items():
        table.add_row(f"time: {name}", f"{seconds:.1f} s", "")
    console = Console(width=max(80, Console().width), soft_wrap=True, highlight=False)
    console.print(table)
    judge = ", ".join(result.judge_reported) or result.judge
    used = f"Judge ({judge} by its own word): {result.usage.line(result.price)}."
    for line in [*result.warnings(), *report.notes, used]:
        console.print(line, markup=False)


def shown(figure: Figure, biased: bool) -> str:
    """Return a figure with its interval; ``‡`` marks a judge whose position bias is too large."""
    text = f"{figure.value:.2f}"
    if figure.low is not None and figure.high is not None:
        text += f" ({figure.low:.2f} to {figure.high:.2f})"
    return text + (" ‡" if biased else "")
