"""The sandbox's requests as prompts."""

from __future__ import annotations

from gprl_lightning.config import DataConfig
from gprl_lightning.config.sandbox import GoldKind
from gprl_lightning.core.batch import Prompt
from gprl_lightning.data.prompts import prompts_of_rows
from gprl_lightning.sandbox.contextual_gold import weight_columns
from gprl_lightning.sandbox.requests import Request, split_requests


def sandbox_prompts(data: DataConfig, gold: GoldKind = "vote") -> tuple[list[Prompt], list[Prompt]]:
    """Return the (train, held-out) requests, of these the first ``data.held_out``.

    The column ``task`` says which kind of request each is. With the contextual gold, the columns
    ``weight_sentiment`` … are what each of its axes weighs there.
    """

    def columns(request: Request) -> dict[str, object]:
        weights = weight_columns(request) if gold == "contextual" else {}
        return {"prompt": request.text, "task": request.task, **weights}

    train, held_out = split_requests()
    rows = [("sandbox", columns(request)) for request in [*train, *held_out]]
    prompts = prompts_of_rows(rows, "prompt", data.system_prompt, "data.path", "sandbox")
    return prompts[: len(train)], prompts[len(train) :][: data.held_out]
