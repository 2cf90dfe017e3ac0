"""Python functions as axes: rewards with the signature that TRL's trainers call.

``f(prompts, completions, **columns) -> list[float | None]``, plain or async. Lists have one entry
per response; a column is the data's, repeated for each response of its prompt. If a data row's
prompt is a text, prompts and completions are texts; if it is chat messages, so are they. None says
that the function has nothing to say of a response. A function without ``**columns`` is given what
it names. Token ids and TRL's trainer (`completion_ids`, `trainer_state`, …) are not at hand here.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from gprl_lightning.core.batch import Columns, Messages
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.errors import ConfigError, RewardFailed

Rewards = Sequence[float | None]
RewardFunction = Callable[..., Rewards | Awaitable[Rewards]]
Arguments = Mapping[str, list[object]]

GIVEN = ("prompts", "completions")
# What TRL's trainers give besides, and a source does not have.
MISSING = ("completion_ids", "trainer_state", "log_extra", "log_metric")


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
        functions: Sequence[RewardFunction],
        weights: Sequence[float | str] | None = None,
        version: str | None = None,
    ):
        self.functions = tuple(functions)
        self.axes = tuple(f.__name__ for f in self.functions)
        self.weights = [1.0] * len(self.axes) if weights is None else [*weights]
        self.version = version
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
        return FunctionRewards([_imported(name) for name in functions], weights, version)

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
        found = _called(self.functions, _arguments(prompts, responses, columns))
        pairs = zip(self.axes, found, strict=True)
        by_axis = [_checked(name, rewards, len(prompts) * size) for name, rewards in pairs]
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
        sources = [_source(f) for f in self.functions]
        return {"functions": sources, "weights": self.weights, "version": self.version}


def _require_known_arguments(function: RewardFunction) -> None:
    for name, parameter in inspect.signature(function).parameters.items():
        if name in MISSING and parameter.default is parameter.empty:
            raise ConfigError(
                f"preference_model.functions: {function.__name__} needs {name}: expected a "
                f"function of {', '.join(GIVEN)} and columns of the data. Give {name} a default."
            )


def _arguments(
    prompts: Sequence[Messages], responses: Sequence[Sequence[str]], columns: Sequence[Columns]
) -> Arguments:
    """Return TRL's keyword arguments: lists over all responses."""
    names = dict.fromkeys(name for row in columns for name in row)
    given: dict[str, list[object]] = {name: [] for name in names if name != "prompt"}
    given |= {name: [] for name in GIVEN}
    for prompt, group, row in zip(prompts, responses, columns, strict=True):
        raw = row.get("prompt", _as_in_a_file(prompt))
        for text in group:
            chat = [{"role": "assistant", "content": text}]
            told = {**row, "prompts": raw, "completions": text if isinstance(raw, str) else chat}
            for name, values in given.items():
                values.append(told.get(name))
    return given


def _as_in_a_file(prompt: Messages) -> object:
    """Return a prompt whose row is not known as a row would hold it."""
    alone = len(prompt) == 1 and prompt[0]["role"] == "user"
    return prompt[0]["content"] if alone else list(prompt)


def _called(functions: Sequence[RewardFunction], given: Arguments) -> list[Rewards]:
    """Return each function's answer. The async ones wait together, in a loop of a thread of their
    own: the caller's thread may have one that runs (notebooks, Ray)."""
    answers: list[Any] = [_answer(function, given) for function in functions]

    async def wait_for(function: RewardFunction, answer: Any) -> Rewards:
        if not inspect.isawaitable(answer):
            return answer
        try:
            return await answer
        except Exception as error:
            raise _failed(function, error) from error

    async def all_of_them() -> list[Rewards]:
        pairs = zip(functions, answers, strict=True)
        return await asyncio.gather(*[wait_for(f, answer) for f, answer in pairs])

    if not any(map(inspect.isawaitable, answers)):
        return answers
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, all_of_them()).result()


def _answer(function: RewardFunction, given: Arguments) -> Rewards | Awaitable[Rewards]:
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    try:
        return function(**{k: v for k, v in given.items() if takes_all or k in parameters})
    except Exception as error:
        raise _failed(function, error) from error


def _failed(function: RewardFunction, error: Exception) -> RewardFailed:
    return RewardFailed(
        f"preference_model.functions: expected rewards from {function.__name__}; it raised "
        f"{type(error).__name__}: {error}. Correct the function."
    )


def _checked(name: str, rewards: Rewards, count: int) -> Tensor:
    """Return the rewards with NaN for None."""
    try:
        numbers = [math.nan if r is None else float(r) for r in rewards]
        broken = [r for r in rewards if r is not None and not math.isfinite(r)]
    except (TypeError, ValueError) as error:
        raise RewardFailed(
            f"preference_model.functions: expected a list of numbers or None from {name}; found "
            f"{type(rewards).__name__}: {error}. Correct the function."
        ) from error
    if len(numbers) != count:
        raise RewardFailed(
            f"preference_model.functions: expected {count} rewards from {name}, one for each "
            f"response; found {len(numbers)}. Correct the function."
        )
    if broken:
        raise RewardFailed(
            f"preference_model.functions: expected numbers or None from {name}; found {broken[0]}. "
            "Correct the function."
        )
    return torch.tensor(numbers, dtype=torch.float32)


def _imported(name: str) -> RewardFunction:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"preference_model.functions: expected names such as my_rewards.brevity; found "
            f"{name!r} ({error}). Correct it, or put its folder on PYTHONPATH."
        ) from error


def _source(function: RewardFunction) -> str:
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):  # a lambda of the prompt, a built-in
        text = repr(getattr(function, "__code__", function))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{function.__module__}.{function.__qualname__} {digest}"
