"""Prompts from a file or a hub data set, and the loader that turns them into iterations.

A row is ``{"prompt": "Write …"}`` or ``{"prompt": [{"role": "user", "content": "…"}, …]}``; the key
is ``data.prompt_key``; `data.rows` knows the files. One pass over the loader is the whole run:
``len(loader)`` iterations, reshuffled at each epoch of the data inside, so that a run has one
budget and one position to resume from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from gprl_lightning.config import DataConfig
from gprl_lightning.core.batch import Messages, Prompt, PromptBatch
from gprl_lightning.data.messages import ROLES, checked_messages, has_blank_turn
from gprl_lightning.data.pair_formats import PairKeys, canonical_rows
from gprl_lightning.data.rows import PlacedRow, require_some, rows_of, shown
from gprl_lightning.errors import ConfigError


def load_prompts(data: DataConfig) -> tuple[list[Prompt], list[Prompt]]:
    """Return the (train, held-out) prompts of ``data``.

    Held-out prompts come from ``held_out_path``, or are the last ``held_out`` rows of ``path``. A
    training prompt that is held out, too, is left out of the training, and a line says so.

    Raises:
        ConfigError: a missing file, a broken row (with file and line), or nothing left to train on.
    """
    prompts = _read(data.path, data.split, data, "data.path")
    if data.held_out_path is not None:
        offset = len(prompts)
        found = _read(data.held_out_path, data.held_out_split, data, "data.held_out_path")
        held_out = [Prompt(offset + p.uid, p.messages, p.columns) for p in found[: data.held_out]]
        return _apart(prompts, held_out, data), held_out
    if data.held_out >= len(prompts):
        raise ConfigError(
            f"data.held_out={data.held_out}: {data.path} has {len(prompts)} prompts, which leaves "
            "none to train on. Lower data.held_out, or give data.held_out_path."
        )
    cut = len(prompts) - data.held_out
    return _apart(prompts[:cut], prompts[cut:], data), prompts[cut:]


def _apart(prompts: list[Prompt], held_out: list[Prompt], data: DataConfig) -> list[Prompt]:
    """The training prompts that are not held out."""
    known = {_said(prompt) for prompt in held_out}
    kept = [prompt for prompt in prompts if _said(prompt) not in known]
    same = len(prompts) - len(kept)
    if not kept:
        raise ConfigError(
            f"data.held_out={data.held_out}: expected prompts to train on that are not held out; "
            f"found that all {same} of {data.path} are. Give another data.held_out_path, or lower "
            "data.held_out."
        )
    if same:
        print(f"{data.path}: {same} prompts left out of the training: they are held out, too")
    return kept


def _said(prompt: Prompt) -> tuple[tuple[str, str], ...]:
    return tuple((m["role"], m["content"]) for m in prompt.messages)


def _read(path: str, split: str, data: DataConfig, setting: str) -> list[Prompt]:
    rows = rows_of(path, split, setting)
    return prompts_of_rows(rows, data.prompt_key, data.system_prompt, setting, path)


def prompts_of_rows(
    rows: Iterable[PlacedRow], key: str, system: str | None, setting: str, path: str
) -> list[Prompt]:
    """Return the prompts of `rows`, each under `key`, with the system prompt where it has none.

    Args:
        rows: with their places.
        key: the column of the prompt.
        system: put before prompts that have no system message.
        setting: the configuration key of `path`, for messages.
        path: where the rows come from.

    Raises:
        ConfigError: a broken row (with its place), or no rows.
    """
    head: Messages = () if system is None else ({"role": "system", "content": system},)
    prompts = []
    for number, (where, row) in enumerate(rows):
        row = _with_prompt(row, key, where)
        messages = _messages(row, key, where, setting)
        own = messages[0]["role"] == "system"
        columns = {"prompt": row[key], **{k: v for k, v in row.items() if k != key}}
        prompts.append(Prompt(number, messages if own else (*head, *messages), columns))
    require_some(prompts, path, setting)
    return prompts


def _with_prompt(row: Any, key: str, where: str) -> Any:
    """A row of a pair whose prompt is in its conversations alone, as hh-rlhf's, with it beside."""
    if not isinstance(row, dict) or key in row or not {"chosen", "rejected"} <= set(row):
        return row
    _, pairs = canonical_rows(row, where, PairKeys())
    return {**row, key: pairs[0]["chosen"][:-1]}


def _messages(row: Any, key: str, where: str, setting: str) -> Messages:
    """One row's prompt as chat messages, or a ConfigError that says where and what."""
    if not isinstance(row, dict) or key not in row:
        found = shown(sorted(row)) if isinstance(row, dict) else type(row).__name__
        raise ConfigError(
            f"{where}: expected the key {key!r}, found {found}. Set data.prompt_key, or correct "
            f"{setting}."
        )
    value, fix = row[key], f"Correct {setting}."
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if isinstance(value, Sequence) and value:
        messages = checked_messages(value, where, key, fix)
        if messages[-1]["role"] == "user" and not has_blank_turn(messages):
            return messages
    raise ConfigError(
        f"{where}: {key!r} must be a text, or a list of "
        f"{{'role': {'|'.join(ROLES)}, 'content': text}} that ends with the user, none blank; "
        f"found {shown(row[key])}. {fix}"
    )


Encode = Callable[[int, Sequence[Prompt]], PromptBatch]


class PromptLoader:
    """An iterable of one `PromptBatch` per RL iteration, for one of several processes.

    Each iteration takes ``prompts_per_step`` prompts per process from a stream that every process
    shuffles alike, by (seed, epoch); the remainder of an epoch that does not fill an iteration is
    left out. The position is saved and restored by Lightning through ``state_dict``.

    Raises:
        ConfigError: fewer prompts than one iteration takes.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        encode: Encode,
        prompts_per_step: int,
        iterations: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.prompts, self.encode = prompts, encode
        self.prompts_per_step, self.iterations, self.seed = prompts_per_step, iterations, seed
        self.rank, self.world_size = rank, world_size
        self.position = 0
        if len(prompts) < prompts_per_step * world_size:
            raise ConfigError(
                f"data.prompts_per_step={prompts_per_step} on {world_size} process(es): expected "
                f"at least the {prompts_per_step * world_size} prompts of one iteration, found "
                f"{len(prompts)}. Lower data.prompts_per_step, or give more in data.path."
            )

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[PromptBatch]:
        if self.position >= self.iterations:
            self.position = 0
        while self.position < self.iterations:
            batch = self.batch(self.position)
            self.position += 1
            yield batch

    def batch(self, iteration: int, count: int = 1) -> PromptBatch:
        """Return the prompts of this process at ``iteration`` (0-based): a pure function of it.

        With ``count``, those of so many iterations from it on, as far as the run goes.
        """
        last = min(iteration + count, self.iterations)
        chosen = [p for i in range(iteration, last) for p in self._prompts_at(i)]
        return self.encode(iteration, chosen)

    def batch_or_none(self, iteration: int) -> PromptBatch | None:
        """Return `batch`, or None where the run has ended."""
        return self.batch(iteration) if iteration < self.iterations else None

    def _prompts_at(self, iteration: int) -> list[Prompt]:
        per_iteration = self.prompts_per_step * self.world_size
        epoch, step = divmod(iteration, len(self.prompts) // per_iteration)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.prompts), generator=generator)
        start = step * per_iteration + self.rank * self.prompts_per_step
        return [self.prompts[i] for i in order[start : start + self.prompts_per_step].tolist()]

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]
