"""Python functions as axes: rewards with the signature that TRL's trainers call.

``f(prompts, completions, **columns) -> list[float | None]``, plain or async. Lists have one entry
per response; a column is the data's, repeated for each response of its prompt. If a data row's
prompt is a text, prompts and completions are texts; if it is chat messages, so are they. None says
that the function has nothing to say of a response. A function without ``**columns`` is given what
it names. ``completion_ids`` are the policy's own tokens, the EOS that ended a response included.
TRL's trainer itself (`trainer_state`, `log_metric`, …) is not at hand here.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from gprl_lightning.core.batch import COMPLETION_IDS, Columns, Messages
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.function_calls import (
    GIVEN,
    Encode,
    Function,
    arguments,
    called,
    imported,
    numbers_of,
    source_text,
)

# What TRL's trainers give besides, and a source does not have.
MISSING = ("trainer_state", "log_extra", "log_metric")


class FunctionRewards:
    """A `PreferenceSource` of k functions: k axes, named after them. Ours.

    A function has nothing to say of a response for which it returns None: the response stands at
    the mean of its group on this axis. If it says nothing of a whole group, the axis has λ = 0
    there.

    Args:
        functions: the functions.
        weights: λ of each: a number, or the name of a column that holds it; None: 1 each.
        version: the user's word for all that the functions call; see `identity`.

    Raises:
        ConfigError: no functions, two of one name, a wrong number of weights, or a function that
            needs an argument which only TRL's trainers have.
    """

    tau = 1.0

    def __init__(
        self,
        functions: Sequence[Function],
        weights: Sequence[float | str] | None = None,
        version: str | None = None,
    ):
        self.functions = tuple(functions)
        self.axes = tuple(f.__name__ for f in self.functions)
        self.weights = [1.0] * len(self.axes) if weights is None else [*weights]
        self.version = version
        self.encode: Encode | None = None  # the policy's tokens of a text that has none yet
        if not self.axes or len(set(self.axes)) < len(self.axes):
            raise ConfigError(
                f"preference_model.functions={list(self.axes)}: expected one function or more, of "
                "different names."
            )
        if len(self.weights) != len(self.axes):
            raise ConfigError(
                f"preference_model.weights={self.weights}: expected {len(self.axes)}, one for each "
                "of preference_model.functions."
            )
        for function in self.functions:
            _require_known_arguments(function)

    @staticmethod
    def named(
        functions: Sequence[str],
        weights: Sequence[float | str] | None = None,
        version: str | None = None,
    ) -> FunctionRewards:
        """Return the source of functions of dotted names, such as ``my_rewards.brevity``."""
        return FunctionRewards([imported(name) for name in functions], weights, version)

    def embed(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[Sequence[str]],
        columns: Sequence[Columns] = (),
    ) -> Embeddings:
        """Call each function once, on all responses.

        Raises:
            RewardFailed: a function raised, or gave something else than one number or None each.
            ConfigError: a column that ``weights`` names is missing.
        """
        columns = columns or [{} for _ in prompts]
        size = len(responses[0])
        found = called(self.functions, arguments(prompts, responses, columns, self.encode))
        pairs = zip(self.axes, found, strict=True)
        count = len(prompts) * size
        by_axis = [torch.tensor(numbers_of(name, rewards, count)) for name, rewards in pairs]
        rewards = torch.stack(by_axis, -1).view(len(prompts), size, -1)
        silent = rewards.isnan()
        filled = torch.where(silent, rewards.nanmean(1, keepdim=True), rewards).nan_to_num()
        weights = torch.tensor([[self._weight(w, row) for w in self.weights] for row in columns])
        return Embeddings.of_rewards(filled, torch.where(silent.all(1), 0.0, weights))

    def _weight(self, weight: float | str, row: Columns) -> float:
        value: Any = row.get(weight) if isinstance(weight, str) else weight
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ConfigError(
                f"preference_model.weights: expected a number in the column {weight!r} of each "
                f"row; found {value!r} and the columns {sorted(row)}."
            ) from None

    def identity(self) -> dict[str, object]:
        """Return the functions' source texts, the weights and the version.

        Closures, imported helpers and services that a function calls are not part of its text:
        change ``preference_model.version`` with them.
        """
        sources = [source_text(f) for f in self.functions]
        return {"functions": sources, "weights": self.weights, "version": self.version}


def _require_known_arguments(function: Function) -> None:
    for name, parameter in inspect.signature(function).parameters.items():
        if name in MISSING and parameter.default is parameter.empty:
            raise ConfigError(
                f"preference_model.functions: {function.__name__} needs {name}: expected a "
                f"function of {', '.join((*GIVEN, COMPLETION_IDS))} and columns of the data. "
                f"Give {name} a default."
            )
