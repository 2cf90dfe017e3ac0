"""Calls of a user's Python functions in TRL's way: their arguments, their answers, their names."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, cast

from gprl_lightning.core.batch import COMPLETION_IDS, Columns, Messages
from gprl_lightning.errors import ConfigError, RewardFailed

Answers = Sequence[float | None]
Function = Callable[..., Answers | Awaitable[Answers]]
Arguments = Mapping[str, list[object]]
Encode = Callable[[str], list[int]]

REWARDS = "preference_model.functions"  # the key that most errors name
GIVEN = ("prompts", "completions")


def arguments(
    prompts: Sequence[Messages],
    responses: Sequence[Sequence[str]],
    columns: Sequence[Columns],
    encode: Encode | None = None,
) -> Arguments:
    """Return TRL's keyword arguments: lists over all responses, group by group.

    Args:
        prompts: one for each group.
        responses: of each group.
        columns: of each prompt's row; ``completion_ids`` are the tokens of the group's first
            responses, each a list, as they were sampled.
        encode: makes token ids of a response that has none (an anchor, a judged answer); None: such
            a call has no ``completion_ids``.
    """
    names = dict.fromkeys(name for row in columns for name in row)
    given: dict[str, list[object]] = {
        name: [] for name in names if name not in ("prompt", COMPLETION_IDS)
    }
    given |= {name: [] for name in GIVEN}
    for prompt, group, row in zip(prompts, responses, columns, strict=True):
        raw = row.get("prompt", _as_in_a_file(prompt))
        for text in group:
            chat = [{"role": "assistant", "content": text}]
            told = {**row, "prompts": raw, "completions": text if isinstance(raw, str) else chat}
            for name, values in given.items():
                values.append(told.get(name))
    ids = _completion_ids(responses, columns, encode)
    return given if ids is None else {**given, COMPLETION_IDS: ids}


def _completion_ids(
    responses: Sequence[Sequence[str]], columns: Sequence[Columns], encode: Encode | None
) -> list[object] | None:
    found: list[object] = []
    for group, row in zip(responses, columns, strict=True):
        known: Any = row.get(COMPLETION_IDS, ())
        found += known[: len(group)]
        rest = group[len(known) :]
        if rest and encode is None:
            return None
        found += [encode(text) for text in rest] if encode else []
    return found


def _as_in_a_file(prompt: Messages) -> object:
    """Return a prompt whose row is not known as a row would hold it."""
    alone = len(prompt) == 1 and prompt[0]["role"] == "user"
    return prompt[0]["content"] if alone else list(prompt)


def called(functions: Sequence[Function], given: Arguments, key: str = REWARDS) -> list[Answers]:
    """Return each function's answer. The async ones wait together, in a loop of a thread of their
    own: the caller's thread may have one that runs (notebooks, Ray).

    Raises:
        RewardFailed: a function raised.
    """
    answers: list[Any] = [_answer(function, given, key) for function in functions]

    async def wait_for(function: Function, answer: Any) -> Answers:
        if not inspect.isawaitable(answer):
            return answer
        try:
            return await answer
        except Exception as error:
            raise _failed(function, error, key) from error

    async def all_of_them() -> list[Answers]:
        pairs = zip(functions, answers, strict=True)
        return await asyncio.gather(*[wait_for(f, answer) for f, answer in pairs])

    if not any(map(inspect.isawaitable, answers)):
        return answers
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, all_of_them()).result()


def _answer(function: Function, given: Arguments, key: str) -> Answers | Awaitable[Answers]:
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    try:
        return function(**{k: v for k, v in given.items() if takes_all or k in parameters})
    except Exception as error:
        raise _failed(function, error, key) from error


def _failed(function: Function, error: Exception, key: str) -> RewardFailed:
    return RewardFailed(
        f"{key}: expected answers of {function.__name__}; it raised "
        f"{type(error).__name__}: {error}. Correct the function."
    )


def numbers_of(name: str, answers: Answers, count: int, key: str = REWARDS) -> list[float]:
    """Return a function's answers as numbers, with NaN for None.

    Raises:
        RewardFailed: they are not ``count`` finite numbers or None.
    """
    try:
        numbers = [math.nan if r is None else float(r) for r in answers]
        broken = [r for r in answers if r is not None and not math.isfinite(r)]
    except (TypeError, ValueError) as error:
        raise RewardFailed(
            f"{key}: expected a list of numbers or None from {name}; found "
            f"{type(answers).__name__}: {error}. Correct the function."
        ) from error
    if len(numbers) != count:
        raise RewardFailed(
            f"{key}: expected {count} numbers from {name}, one for each response; found "
            f"{len(numbers)}. Correct the function."
        )
    if broken:
        raise RewardFailed(
            f"{key}: expected numbers or None from {name}; found {broken[0]}. Correct the function."
        )
    return numbers


def imported(name: str, key: str = REWARDS) -> Function:
    """Return the function of a dotted name.

    Raises:
        ConfigError: there is none that can be called.
    """
    module, _, attribute = name.rpartition(".")
    try:
        function: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{key}: expected names such as my_rewards.brevity; found "
            f"{name!r} ({error}). Correct it, or put its folder on PYTHONPATH."
        ) from error
    if callable(function):
        return cast("Function", function)
    raise ConfigError(f"{key}={name}: expected a function; found {function!r}. Correct it.")


def source_text(function: Function) -> str:
    """Return a function's name with a digest of its own source text, or of its code if it has
    none."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):  # a lambda of the prompt, a built-in
        text = repr(getattr(function, "__code__", function))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{function.__module__}.{function.__qualname__} {digest}"
