"""Python functions as axes: rewards with the signature that TRL's trainers call.

``f(prompts, completions, **columns) -> list[float | None]``, plain or async. Lists have one entry
per response; a column is the data's, repeated for each response of its prompt. Where a data row's
prompt is a text, prompts and completions are texts; where it is chat messages, so are they. None
says that the function has nothing to say of a response.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import torch
from torch import Tensor

from gprl_lightning.core.batch import Columns, Messages
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.errors import ConfigError, RewardFailed

Rewards = Sequence[float | None]
RewardFunction = Callable[..., Rewards | Awaitable[Rewards]]


class FunctionRewards:
    """A `PreferenceSource` of k functions: k axes, named after them.

    Args:
        functions: the functions.
        weights: λ of each: a number, or the name of a column that holds it; None: 1 each.
    """

    tau = 1.0

    def __init__(
        self,
        functions: Sequence[RewardFunction],
        weights: Sequence[float | str] | None = None,
    ):
        self.functions = tuple(functions)
        self.axes = tuple(f.__name__ for f in self.functions)
        self.weights = [1.0] * len(self.axes) if weights is None else [*weights]
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

    @staticmethod
    def named(
        functions: Sequence[str], weights: Sequence[float | str] | None = None
    ) -> FunctionRewards:
        """The functions of dotted names, as ``my_rewards.brevity``."""
        return FunctionRewards([_imported(name) for name in functions], weights)

    def embed(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[Sequence[str]],
        columns: Sequence[Columns] = (),
    ) -> Embeddings:
        columns = columns or [{} for _ in prompts]
        size = len(responses[0])
        given = _arguments(prompts, responses, columns)
        found = _called(self.functions, given)
        rewards = torch.stack(
            [_checked(n, f, len(prompts) * size) for n, f in zip(self.axes, found, strict=True)], -1
        ).view(len(prompts), size, -1)
        silent = rewards.isnan()
        # Nothing to say of a response is neither for nor against it: it stands at its group's mean.
        filled = torch.where(silent, rewards.nanmean(1, keepdim=True), rewards).nan_to_num()
        weights = torch.tensor([[self._weight(w, row) for w in self.weights] for row in columns])
        return Embeddings.of_rewards(filled, torch.where(silent.all(1), 0.0, weights))

    def _weight(self, weight: float | str, row: Columns) -> float:
        try:
            return float(row[weight] if isinstance(weight, str) else weight)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError):
            raise ConfigError(
                f"preference_model.weights: expected a number in the column {weight!r} of each "
                f"row; found columns {sorted(row)}."
            ) from None

    def identity(self) -> dict[str, object]:
        """The functions' source, and the weights."""
        return {"functions": [_source(f) for f in self.functions], "weights": self.weights}


def _arguments(
    prompts: Sequence[Messages], responses: Sequence[Sequence[str]], columns: Sequence[Columns]
) -> dict[str, list[object]]:
    """TRL's keyword arguments: lists over all responses."""
    given: dict[str, list[object]] = {"prompts": [], "completions": []}
    names = [name for name in columns[0] if name != "prompt"]
    for prompt, group, row in zip(prompts, responses, columns, strict=True):
        raw = row.get("prompt", list(prompt))
        for text in group:
            chat = [{"role": "assistant", "content": text}]
            given["prompts"].append(raw)
            given["completions"].append(text if isinstance(raw, str) else chat)
            for name in names:
                given.setdefault(name, []).append(row[name])
    return given


def _called(functions: Sequence[RewardFunction], given: dict[str, list[object]]) -> list[Rewards]:
    """Each function's answer; the async ones wait together, in a loop and a thread of their own."""

    async def one(function: RewardFunction) -> Rewards:
        try:
            answer = function(**given)
            return await answer if inspect.isawaitable(answer) else answer  # type: ignore[return-value]
        except Exception as error:
            raise RewardFailed(
                f"preference_model.functions: expected rewards from {function.__name__}; it raised "
                f"{type(error).__name__}: {error}. Correct the function."
            ) from error

    async def all_of_them() -> list[Rewards]:
        return await asyncio.gather(*map(one, functions))

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, all_of_them()).result()


def _checked(name: str, rewards: Rewards, count: int) -> Tensor:
    if len(rewards) != count:
        raise RewardFailed(
            f"preference_model.functions: expected {count} rewards from {name}, one for each "
            f"response; found {len(rewards)}. Correct the function."
        )
    numbers = [math.nan if r is None else float(r) for r in rewards]
    broken = [r for r in rewards if r is not None and not math.isfinite(r)]
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
