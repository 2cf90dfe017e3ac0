"""A Python function as a judge: ``judge(prompts, a, b, **columns) -> list[float | None]``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

from gprl_lightning.core.batch import Prompt
from gprl_lightning.errors import ConfigError, RewardFailed
from gprl_lightning.evaluation.judge import Judge, SourceJudge
from gprl_lightning.models.function_calls import Function, arguments, called, imported, numbers_of
from gprl_lightning.models.function_rewards import FunctionRewards

ASKED = ("prompts", "a", "b")


class FunctionJudge:
    """A function that compares. Ours.

    It is called by keyword with lists of one entry per prompt: ``prompts``, the policy's answers
    ``a``, the starting policy's ``b``, and the data's columns. Texts where the row's prompt is a
    text, chat messages where it is chat. It says 1 where a is better, 0 where b is, 0.5 on a tie,
    and None where it has no verdict; plain or async.

    Args:
        function: the function.
        key: of the configuration, for errors.
    """

    def __init__(self, function: Function, key: str = "evaluation.judge"):
        self.function, self.key = function, key

    def prefer(
        self, prompts: Sequence[Prompt], responses: Sequence[str], others: Sequence[str]
    ) -> list[float | None]:
        """Return the function's verdicts, from one call.

        Raises:
            RewardFailed: it raised, or gave something else than a number in [0, 1] or None each.
        """
        pairs = [list(pair) for pair in zip(responses, others, strict=True)]
        given = arguments([p.messages for p in prompts], pairs, [p.columns for p in prompts])
        told = {name: values[::2] for name, values in given.items()}
        told["a"], told["b"] = told.pop("completions"), given["completions"][1::2]
        (answers,) = called([self.function], told, self.key)
        name = self.function.__name__
        numbers = numbers_of(name, answers, len(prompts), self.key)
        if outside := [n for n in numbers if not math.isnan(n) and not 0 <= n <= 1]:
            raise RewardFailed(
                f"{self.key}: expected verdicts from 0 (b is better) to 1 (a is better), or None, "
                f"from {name}; found {outside[0]}. Correct the function."
            )
        return [None if math.isnan(n) else n for n in numbers]

    def axes(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> dict[str, Sequence[float]]:
        """Return nothing: it only compares."""
        return {}


def function_judge(name: str, key: str) -> Judge:
    """Return the judge that a dotted name stands for.

    A function with an argument ``completions`` is a reward with TRL's signature: the answer with
    the higher reward is better. Any other one compares.

    Raises:
        ConfigError: there is no such function, or it can be neither.
    """
    function = imported(name, key)
    taken = inspect.signature(function).parameters
    if "completions" in taken:
        return SourceJudge(FunctionRewards([function]))
    if not {"a", "b"} <= set(taken):
        raise ConfigError(
            f"{key}={name}: expected a function of ({', '.join(ASKED)}, **columns) that compares, "
            f"or of (prompts, completions, **columns) that rewards; found ({', '.join(taken)}). "
            "Name its arguments so."
        )
    return FunctionJudge(function, key)
