"""The sandbox's requests as prompts."""

from __future__ import annotations

from gprl_lightning.config import DataConfig
from gprl_lightning.core.batch import Prompt
from gprl_lightning.data.prompts import prompts_of_rows
from gprl_lightning.sandbox.requests import split_requests


def sandbox_prompts(data: DataConfig) -> tuple[list[Prompt], list[Prompt]]:
    """Return the (train, held-out) requests, of these the first ``data.held_out``.

    The column ``task`` says which kind of request each is.
    """
    train, held_out = split_requests()
    rows = [("sandbox", {"prompt": r.text, "task": r.task}) for r in [*train, *held_out]]
    prompts = prompts_of_rows(rows, "prompt", data.system_prompt, "data.path", "sandbox")
    return prompts[: len(train)], prompts[len(train) :][: data.held_out]
