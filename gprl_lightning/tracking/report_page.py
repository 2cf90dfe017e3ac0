"""``report.html``: a run's curves and its held-out answers on one page that opens offline.

One file without a link to anything. What a policy writes may be hostile: answers travel as JSON in
which no ``<`` is left, the script writes them as text and never as HTML, and the page's policy
forbids every script but its own. Ours.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from gprl_lightning.tracking.answer_log import (
    TASK,
    Answer,
    answered_iterations,
    eigenvalues_by_task,
    read_answers,
)
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.panels import Columns, Panel, other_panels, panels_of
from gprl_lightning.tracking.report import summary_rows
from gprl_lightning.tracking.run_folder import cautions_of, judge_of

MAX_CHARACTERS = 8_000_000  # of answers on one page, of each run; a browser opens it at once
MAX_POINTS = 2_000  # of a curve


def write_page(folder: Path, others: Sequence[Path] = ()) -> Path:
    """Write ``report.html`` of a run, with the curves and answers of other runs beside its own.

    Raises:
        FileNotFoundError: one of the folders holds no metrics.csv.
    """
    from jinja2 import Environment, StrictUndefined

    assets = files("gprl_lightning.tracking") / "page"
    read = {name: (assets / name).read_text(encoding="utf8") for name in _ASSETS}
    names = _names([folder, *others])
    runs = [run_data(path, name) for path, name in zip([folder, *others], names, strict=True)]
    script = "\n".join(read[name] for name in _ASSETS if name.endswith(".js"))
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        read["page.html.jinja"]
    )
    text = template.render(
        title=names[0],
        style=read["page.css"],
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=embedded({"runs": runs}),
    )
    out = folder / "report.html"
    partial = out.with_suffix(".partial")
    partial.write_text(text, encoding="utf8")
    partial.replace(out)
    return out


_ASSETS = ("page.html.jinja", "page.css", "charts.js", "measures.js", "answers.js")


def embedded(data: Any) -> str:
    """Return `data` as JSON that can stand inside a script element: no ``<``, ``>`` or ``&``."""
    text = json.dumps(_plain(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def run_data(folder: Path, name: str) -> dict[str, Any]:
    """Return what the page shows of a run: its table, its curves, its held-out answers."""
    columns = read_metrics(folder / "metrics.csv")
    return {
        "name": name,
        "summary": summary_rows(columns, cautions_of(folder), judge_of(folder)),
        "panels": [_panel(panel) for panel in panels_of(columns)],
        "others": [_panel(panel) for panel in other_panels(columns)],
        "columns": {key: _thinned(*values) for key, values in columns.items()},
        **answers_data(folder, columns),
    }


def answers_data(folder: Path, columns: Columns) -> dict[str, Any]:
    """Return the held-out answers, by prompt and evaluation.

    Evaluations are left out, evenly and never the first or the last, until the answers' texts fit
    in `MAX_CHARACTERS`.
    """
    iterations = answered_iterations(folder)
    logged = {iteration: read_answers(folder, iteration) for iteration in iterations}
    size = sum(len(r["answer"]) + len(r["prompt"]) for rows in logged.values() for r in rows)
    kept = _spread(iterations, int(len(iterations) * min(1.0, MAX_CHARACTERS / max(size, 1))))
    prompts: dict[tuple[Any, str], dict[str, Any]] = {}
    for place, iteration in enumerate(kept):
        for row in logged[iteration]:
            key = (row.get("uid"), row["prompt"])
            prompt = prompts.setdefault(key, _prompt(row, len(kept)))
            prompt["answers"][place] = _answer(row)
    first = next((rows[0] for rows in logged.values() if rows), {})
    return {
        "iterations": kept,
        "left_out": len(iterations) - len(kept),
        "axes": first.get("axes", []),
        "judges": list(first.get("verdicts", {})),
        "tau": first.get("tau", 1.0),
        "tasks": eigenvalues_by_task(logged[kept[-1]]) if kept else {},
        "prompts": list(prompts.values()),
    }


def _prompt(row: Answer, evaluations: int) -> dict[str, Any]:
    return {
        "prompt": row["prompt"],
        "task": row.get(TASK, ""),
        "eigenvalues": row.get("eigenvalues", []),
        "start": {
            "text": row["start_answer"],
            "tokens": row["start_tokens"],
            "vectors": _comparable(row.get("start_vectors")),
        },
        "answers": [None] * evaluations,
    }


def _answer(row: Answer) -> dict[str, Any]:
    vectors, start = row.get("vectors", []), row.get("start_vectors", [])
    rewards = [_cross(v, s) for v, s in zip(vectors, start, strict=True)]
    return {
        "text": row["answer"],
        "tokens": row["tokens"],
        "logprob": row["logprob"],
        "start_logprob": row["start_logprob"],
        "verdicts": row["verdicts"],
        "qualities": row["qualities"],
        "rewards": rewards,
        "vectors": _comparable(vectors),
    }


def _cross(left: Sequence[float], right: Sequence[float]) -> float:
    """Score of one answer against another on one axis: METHOD §1, over the axis's planes."""
    firsts = range(0, len(left), 2)
    return sum(left[p] * right[p + 1] - left[p + 1] * right[p] for p in firsts)


def _comparable(vectors: list[list[float]] | None) -> list[list[float]] | None:
    """Return the vectors if they mean the same in every call of the source, or None.

    Those of a network or a reward do, with one plane per axis. A source that compares pairs has a
    plane for each answer of the call: its scores against the starting answer are all there is.
    """
    if not vectors or any(len(vector) != 2 for vector in vectors):
        return None
    return vectors


def _spread(iterations: list[int], count: int) -> list[int]:
    """Return at least two of the iterations, evenly spread, the first and the last among them."""
    last, count = len(iterations) - 1, max(2, count)
    if last < count:
        return iterations
    return [iterations[round(i * last / (count - 1))] for i in range(count)]


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "title": panel.title,
        "unit": panel.unit,
        "lines": panel.lines,
        "band": panel.band,
        "level": panel.level,
        "dashed": panel.dashed,
        "dots": panel.dots,
    }


def _thinned(steps: list[int], values: list[float]) -> list[list[float]]:
    stride = max(1, math.ceil(len(steps) / MAX_POINTS))
    places = sorted({*range(0, len(steps), stride), len(steps) - 1})
    return [[steps[i] for i in places], [values[i] for i in places]]


def _plain(value: Any) -> Any:
    """Return `value` with numbers of six digits, and null for NaN and Inf, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each run: as much of its path as sets it apart, and two parts at least."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 2
    while len({p[-depth:] for p in parts}) < len(set(parts)):
        depth += 1
    return [os.sep.join(p[-depth:]) for p in parts]
