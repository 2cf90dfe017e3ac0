"""Held-out answers on disk: one JSON line per prompt, in a file of its own for each evaluation.

``answers/iteration_000020.jsonl`` holds all that the report's page shows of an answer. Every line
is complete by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a report reads answers without torch
    from gprl_lightning.core.batch import Messages, Prompt
    from gprl_lightning.core.embeddings import Embeddings

FOLDER = "answers"
TASK = "task"  # the column of the data that says of which kind a prompt is

Answer = dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """What one evaluation found out about its answers, one entry per held-out prompt.

    Attributes:
        prompts: what was asked.
        texts: the policy's answers.
        lengths: their lengths in the policy's tokens.
        logprobs: log π of each whole answer, in nats.
        start_logprobs: log π of the same answer under the starting policy, in nats.
        others: the starting policy's own answers, which the judges compare with.
        other_lengths: their lengths in tokens.
        verdicts: by judge: 1 better than the other answer, 0 worse, 0.5 equal, None no verdict.
        qualities: by judge and by axis of the judge, of the policy's answers.
        axes: names of the reward's axes; empty if the run has no reward.
        tau: temperature of the reward's win probability.
        compared: the reward's embeddings of (answer, other); None if the run has no reward.
    """

    prompts: Sequence[Prompt]
    texts: Sequence[str]
    lengths: Sequence[int]
    logprobs: Sequence[float]
    start_logprobs: Sequence[float]
    others: Sequence[str]
    other_lengths: Sequence[int]
    verdicts: Mapping[str, Sequence[float | None]]
    qualities: Mapping[str, Mapping[str, Sequence[float]]]
    axes: tuple[str, ...] = ()
    tau: float = 1.0
    compared: Embeddings | None = None


def answer_rows(found: Evaluated) -> list[Answer]:
    """Return one record per prompt, in plain values."""
    rows: list[Answer] = [
        {
            "uid": prompt.uid,
            "prompt": prompt_text(prompt.messages),
            "task": str(prompt.columns.get(TASK, "")),
            "answer": found.texts[i],
            "tokens": int(found.lengths[i]),
            "logprob": float(found.logprobs[i]),
            "start_logprob": float(found.start_logprobs[i]),
            "verdicts": {name: values[i] for name, values in found.verdicts.items()},
            "qualities": {
                name: {axis: float(values[i]) for axis, values in axes.items()}
                for name, axes in found.qualities.items()
                if axes
            },
            "start_answer": found.others[i],
            "start_tokens": int(found.other_lengths[i]),
        }
        for i, prompt in enumerate(found.prompts)
    ]
    if found.compared is not None:
        pairs = found.compared.vectors.double().tolist()
        weights = found.compared.eigenvalues.double().tolist()
        for row, (vector, other), eigenvalues in zip(rows, pairs, weights, strict=True):
            row |= {"axes": list(found.axes), "tau": found.tau, "eigenvalues": eigenvalues}
            row |= {"vectors": vector, "start_vectors": other}
    return rows


def eigenvalues_by_task(rows: Sequence[Answer]) -> dict[str, list[float]]:
    """Return λ of each axis, mean over the prompts of a task, by task.

    λ is the prompt's, so any evaluation has the same. Empty if there are fewer than two tasks or
    axes.
    """
    tasks: dict[str, list[list[float]]] = {}
    for row in rows:
        if row.get(TASK) and len(row.get("eigenvalues", [])) > 1:
            tasks.setdefault(row[TASK], []).append(row["eigenvalues"])
    if len(tasks) < 2:
        return {}
    return {
        task: [sum(axis) / len(values) for axis in zip(*values, strict=True)]
        for task, values in sorted(tasks.items())
    }


def prompt_text(messages: Messages) -> str:
    """Return the prompt to read: its text, with roles where it is more than one user's message."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n".join(f"{m['role']}: {m['content']}" for m in messages)


def answer_file(run: Path, iteration: int) -> Path:
    return run / FOLDER / f"iteration_{iteration:06d}.jsonl"


def answered_iterations(run: Path) -> list[int]:
    """Return the iterations that a run's folder has held-out answers of, in order."""
    return sorted(int(f.stem.split("_")[1]) for f in (run / FOLDER).glob("iteration_*.jsonl"))


def write_answers(run: Path, iteration: int, rows: Sequence[Answer]) -> None:
    """Write an evaluation's answers, whole or not at all.

    Those of iteration 0 begin a run: an earlier run's are removed.
    """
    if iteration == 0:
        for old in answered_iterations(run):
            answer_file(run, old).unlink()
    file = answer_file(run, iteration)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    lines = [json.dumps(row, ensure_ascii=True) for row in rows]
    partial.write_text("".join(line + "\n" for line in lines), encoding="utf8")
    partial.replace(file)


def read_answers(run: Path, iteration: int) -> list[Answer]:
    """Return an evaluation's answers as they were written; lines that are torn are left out."""
    rows: list[Answer] = []
    text = answer_file(run, iteration).read_text(encoding="utf8", errors="replace")
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"prompt", "answer", "verdicts"} <= row.keys():
            rows.append(row)
    return rows
