"""Run a benchmark's comparisons past a judge that follows a rule, over HTTP."""

from __future__ import annotations

from pathlib import Path

from gprl_lightning.benchmarks.judging import ask_judge
from gprl_lightning.benchmarks.protocol import Benchmark, Contestant, Judged, Report, Verdict
from gprl_lightning.benchmarks.questions import Question
from gprl_lightning.config import JudgeConfig
from tests.chat_server import ChatServer, Rule, chat_server


def judged(
    benchmark: Benchmark,
    questions: list[Question],
    contestant: Contestant,
    rule: Rule,
    folder: Path,
    **judge,
) -> tuple[Report, list[Verdict], ChatServer]:
    """Return the report, the verdicts, and what the judge has seen."""
    comparisons = benchmark.comparisons(questions, contestant)
    with chat_server(rule) as server:
        config = JudgeConfig(base_url=server.url, backoff=0.01, **judge)
        verdicts, _ = ask_judge(comparisons, config, "rule", folder / "cache")
    report = benchmark.report(Judged(questions, contestant, verdicts, "rule", folder))
    return report, verdicts, server


def figures(report: Report) -> dict[str, float]:
    return {f.name: f.value for f in report.figures}
