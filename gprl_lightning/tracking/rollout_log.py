"""A rollout on disk: a CSV with one row per response, and all that its advantage came from.

Every row is complete by itself (vectors, eigenvalues, multipliers, options): anything can read it,
and `LoggedRollout.rederived` computes the advantages again from nothing else.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.advantages import aggregate_axes, axis_mask, axis_std, normalize_axes
from gprl_lightning.core.batch import Messages, ScoredRollout
from gprl_lightning.core.preference import (
    group_scores,
    pairwise_scores,
    total_scores,
    win_probability,
)
from gprl_lightning.tracking.metrics import per_axis

Row = dict[str, Any]

FOLDER = "rollouts"
STOPPED, TRUNCATED = "end", "length"  # the response ended by itself, or was cut off
TEXTS = ("prompt", "response", "stop_reason")
TEXTS += ("score_shape", "normalization", "weighting", "advantage_scale")
# Numbers of each axis (of each entry, for the vectors), in columns such as group_score/0.
SCORE, ADVANTAGE, EIGENVALUE = "group_score", "axis_advantage", "eigenvalue"
MULTIPLIER, VECTOR = "axis_multiplier", "vector"
RUNNING_STD, STARTING_STD = "running_axis_std", "starting_axis_std"


@dataclass(frozen=True)
class AdvantageOptions:
    """What the advantages of an iteration depend on besides its scores; as in ``algorithm``."""

    score_shape: str
    normalization: str
    weighting: str
    advantage_scale: str
    advantage_epsilon: float
    min_axis_std: float
    axis_std_floor: float
    tau: float  # of the win probability, and of the bounded score


def rollout_rows(
    scored: ScoredRollout,
    multipliers: Float[Tensor, " axes"],
    running_axis_std: Float[Tensor, " axes"],
    starting_axis_std: Float[Tensor, " axes"],
    options: AdvantageOptions,
) -> list[Row]:
    """One row per response, group by group.

    Args:
        scored: of this process.
        multipliers: that the advantages were made with, not those of the next iteration.
        running_axis_std, starting_axis_std: likewise.
    """
    rollout = scored.rollout
    lengths = rollout.response_mask.sum(1).tolist()
    shared = {
        **vars(options),
        **_columns(MULTIPLIER, multipliers),
        **_columns(RUNNING_STD, running_axis_std),
        **_columns(STARTING_STD, starting_axis_std),
    }
    rows = []
    for index, response in enumerate(rollout.responses):
        group, member = divmod(index, rollout.group_size)
        rows.append(
            {
                "iteration": rollout.prompts.iteration + 1,
                "group": group,
                "uid": int(rollout.prompts.uids[group]),
                "prompt": prompt_text(rollout.prompts.messages[group]),
                "response": response,
                "length": lengths[index],
                "stop_reason": STOPPED if rollout.finished[index] else TRUNCATED,
                "advantage": float(scored.advantages[group, member]),
                **_columns(SCORE, scored.group_scores[group, member]),
                **_columns(ADVANTAGE, scored.axis_advantages[group, member]),
                **_columns(EIGENVALUE, scored.eigenvalues[group]),
                **shared,
                **_columns(VECTOR, scored.vectors[group, member]),
            }
        )
    return rows


def _columns(name: str, values: Tensor) -> dict[str, float]:
    return {per_axis(name, i): value for i, value in enumerate(values.tolist())}


def prompt_text(messages: Messages) -> str:
    """The prompt to read: its text, with roles where it is more than one user's message."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n".join(f"{m['role']}: {m['content']}" for m in messages)


def rollout_file(run: Path, iteration: int) -> Path:
    return run / FOLDER / f"iteration_{iteration:06d}.csv"


def logged_iterations(run: Path) -> list[int]:
    """The iterations that a run's folder has rollouts of, in order."""
    return sorted(int(f.stem.split("_")[1]) for f in (run / FOLDER).glob("iteration_*.csv"))


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Whole or not at all. Numbers are written with all their digits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(file)


def read_rows(file: Path) -> list[Row]:
    """The rows as they were written.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with file.open(newline="", encoding="utf8") as stream:
        return [{k: _value(k, cell) for k, cell in row.items()} for row in csv.DictReader(stream)]


def _value(column: str, cell: str) -> Any:
    if column in TEXTS:
        return cell
    return int(cell) if column in ("iteration", "group", "uid", "length") else float(cell)


@dataclass(frozen=True)
class LoggedRollout:
    """The rollout of one iteration, over all processes, as tensors; `rows` has the texts."""

    rows: list[Row]
    options: AdvantageOptions
    vectors: Float[Tensor, "groups size two_axes"]
    eigenvalues: Float[Tensor, "groups axes"]
    group_scores: Float[Tensor, "groups size axes"]
    axis_advantages: Float[Tensor, "groups size axes"]
    advantages: Float[Tensor, "groups size"]
    multipliers: Float[Tensor, " axes"]
    running_axis_std: Float[Tensor, " axes"]
    starting_axis_std: Float[Tensor, " axes"]

    @staticmethod
    def from_rows(rows: list[Row]) -> LoggedRollout:
        groups = len({row["group"] for row in rows})

        def tensor(name: str) -> Tensor:
            names = [c for c in rows[0] if c == name or c.startswith(name + "/")]
            values = torch.tensor([[row[c] for c in names] for row in rows])
            return values.view(groups, -1, len(names))

        return LoggedRollout(
            rows=rows,
            options=AdvantageOptions(**{f.name: rows[0][f.name] for f in fields(AdvantageOptions)}),
            vectors=tensor(VECTOR),
            eigenvalues=tensor(EIGENVALUE)[:, 0],
            group_scores=tensor(SCORE),
            axis_advantages=tensor(ADVANTAGE),
            advantages=tensor("advantage")[..., 0],
            multipliers=tensor(MULTIPLIER)[0, 0],
            running_axis_std=tensor(RUNNING_STD)[0, 0],
            starting_axis_std=tensor(STARTING_STD)[0, 0],
        )

    @staticmethod
    def read(run: Path, iteration: int) -> LoggedRollout:
        return LoggedRollout.from_rows(read_rows(rollout_file(run, iteration)))

    def group(self, index: int) -> list[Row]:
        return [row for row in self.rows if row["group"] == index]

    def rederived(self) -> Float[Tensor, "groups size"]:
        """The advantages, from vectors, eigenvalues, multipliers and options alone (METHOD §2)."""
        options: Any = self.options
        scores = group_scores(self.vectors, options.score_shape, options.tau)
        mask = axis_mask(axis_std(scores), self.running_axis_std, options.min_axis_std)
        least_std = options.axis_std_floor * self.starting_axis_std
        epsilon, normalization = options.advantage_epsilon, options.normalization
        return aggregate_axes(
            normalize_axes(scores, normalization, mask, epsilon, least_std),
            self.eigenvalues,
            self.multipliers,
            normalization,
            options.weighting,
            options.advantage_scale,
            epsilon,
        )

    def win_probabilities(self) -> Float[Tensor, "groups size size"]:
        """P(i ≻ j), by the preference model's own temperature."""
        scores = pairwise_scores(self.vectors)
        total = total_scores(scores, self.eigenvalues[:, None, None])
        return win_probability(total, self.options.tau)
