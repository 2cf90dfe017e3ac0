"""A rollout on disk: a CSV with one row per response, and all that its advantage came from.

Every row is complete by itself: it holds what the advantage rule was given, the rule's name and
options, and what it returned. `LoggedRollout.rederived` calls the rule again, on nothing else.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.advantage_rule import AdvantageRule, ScoredGroups, State
from gprl_lightning.core.batch import ScoredRollout
from gprl_lightning.core.preference import pairwise_scores, total_scores, win_probability
from gprl_lightning.tracking.answer_log import prompt_text
from gprl_lightning.tracking.metrics import per_axis
from gprl_lightning.tracking.rule_record import rule_record

Row = dict[str, Any]

FOLDER = "rollouts"
STOPPED, TRUNCATED = "end", "length"  # the response ended by itself, or was cut off
RULE, STATE = "advantage_rule", "advantage_state"  # see `rule_record`; by name, as JSON
TEXTS = ("prompt", "response", "stop_reason", RULE, STATE)
# Numbers of each axis (of each entry, for the vectors), in columns such as group_score/0.
SCORE, ADVANTAGE, EIGENVALUE = "group_score", "axis_advantage", "eigenvalue"
MULTIPLIER, VECTOR = "axis_multiplier", "vector"


def rollout_rows(scored: ScoredRollout) -> list[Row]:
    """Return one row per response of this process, group by group, with all that its advantage came
    from."""
    rollout, groups, axes = scored.rollout, scored.groups, scored.axes
    shared = {
        "tau": groups.tau,
        "kl_coef": groups.kl_coef,
        **_columns(MULTIPLIER, groups.multipliers, axes),
        RULE: rule_record(scored.rule),
        STATE: json.dumps({name: value.tolist() for name, value in scored.state.items()}),
    }
    entries = [f"{axis}/{e}" for axis in axes for e in range(groups.vectors.shape[-1])]
    rows = []
    for index, response in enumerate(rollout.responses):
        group, member = divmod(index, rollout.group_size)
        rows.append(
            {
                "iteration": rollout.prompts.iteration + 1,
                "group": group,
                "uid": int(groups.uids[group]),
                "prompt": prompt_text(rollout.prompts.messages[group]),
                "response": response,
                "length": int(groups.lengths[group, member]),
                "stop_reason": STOPPED if rollout.finished[index] else TRUNCATED,
                "logprob": float(groups.logprobs[group, member]),
                "ref_logprob": float(groups.ref_logprobs[group, member]),
                "advantage": float(scored.advantages[group, member]),
                **_columns(SCORE, scored.group_scores[group, member], axes),
                **_columns(ADVANTAGE, scored.axis_advantages[group, member], axes),
                **_columns(EIGENVALUE, scored.eigenvalues[group], axes),
                **shared,
                **_columns(VECTOR, groups.vectors[group, member].flatten(), entries),
            }
        )
    return rows


def _columns(name: str, values: Tensor, labels: Sequence[str]) -> dict[str, float]:
    return {per_axis(name, k): v for k, v in zip(labels, values.tolist(), strict=True)}


def rollout_file(run: Path, iteration: int) -> Path:
    return run / FOLDER / f"iteration_{iteration:06d}.csv"


def logged_iterations(run: Path) -> list[int]:
    """Return the iterations that a run's folder has rollouts of, in order."""
    return sorted(int(f.stem.split("_")[1]) for f in (run / FOLDER).glob("iteration_*.csv"))


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Write the rows, whole or not at all. Numbers are written with all their digits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(file)


def read_rows(file: Path) -> list[Row]:
    """Return the rows as they were written.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with file.open(newline="", encoding="utf8", errors="replace") as stream:
        return [{k: _value(k, cell) for k, cell in row.items()} for row in csv.DictReader(stream)]


def _value(column: str, cell: str) -> Any:
    if column in TEXTS:
        return cell
    return int(cell) if column in ("iteration", "group", "uid", "length") else float(cell)


@dataclass(frozen=True)
class LoggedRollout:
    """The rollout of one iteration, over all processes: the rule's arguments, and its result.

    Attributes:
        rows: as they were logged.
        axes: their names.
        groups: what the advantage rule was given.
        state: the state that it was given.
        group_scores: what it returned.
        advantages: likewise.
    """

    rows: list[Row]
    axes: tuple[str, ...]
    groups: ScoredGroups
    state: State
    group_scores: Float[Tensor, "groups size axes"]
    advantages: Float[Tensor, "groups size"]

    @staticmethod
    def from_rows(rows: list[Row]) -> LoggedRollout:
        count = len({row["group"] for row in rows})
        axes = tuple(c.removeprefix(SCORE + "/") for c in rows[0] if c.startswith(SCORE + "/"))

        def tensor(name: str) -> Tensor:
            names = [c for c in rows[0] if c == name or c.startswith(name + "/")]
            values = torch.tensor([[row[c] for c in names] for row in rows])
            return values.view(count, -1, len(names))

        def single(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor([row[name] for row in rows], dtype=dtype).view(count, -1)

        groups = ScoredGroups(
            vectors=tensor(VECTOR).unflatten(-1, (len(axes), -1)),
            eigenvalues=tensor(EIGENVALUE)[:, 0],
            multipliers=tensor(MULTIPLIER)[0, 0],
            kl_coef=rows[0]["kl_coef"],
            tau=rows[0]["tau"],
            logprobs=single("logprob"),
            ref_logprobs=single("ref_logprob"),
            lengths=single("length", torch.long),
            finished=torch.tensor([r["stop_reason"] == STOPPED for r in rows]).view(count, -1),
            uids=single("uid", torch.long)[:, 0],
            iteration=rows[0]["iteration"] - 1,
        )
        state = {k: torch.tensor(v) for k, v in json.loads(rows[0][STATE]).items()}
        return LoggedRollout(rows, axes, groups, state, tensor(SCORE), tensor("advantage")[..., 0])

    @staticmethod
    def read(run: Path, iteration: int) -> LoggedRollout:
        return LoggedRollout.from_rows(read_rows(rollout_file(run, iteration)))

    def group(self, index: int) -> list[Row]:
        return [row for row in self.rows if row["group"] == index]

    def rederived(self, rule: AdvantageRule) -> Float[Tensor, "groups size"]:
        """Return the advantages again: call the rule on what it was given then."""
        return rule(self.groups, self.state, lambda sums: sums).advantages

    def win_probabilities(self) -> Float[Tensor, "groups size size"]:
        """Return P(i ≻ j), by the preference source's own temperature."""
        scores = pairwise_scores(self.groups.vectors)
        total = total_scores(scores, self.groups.eigenvalues[:, None, None])
        return win_probability(total, self.groups.tau)
