"""Prompts from a file or a hub data set, and the loader that turns them into
iterations.

A row is ``{"prompt": "Write …"}`` or ``{"prompt": [{"role": "user", "content": "…"}, …]}``; the key
is ``data.prompt_key``. One pass over the loader is the whole run: ``len(loader)`` iterations,
reshuffled at each epoch of the data inside, so that a run has one budget and one position to resume
from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from gprl_lightning.config import DataConfig
from gprl_lightning.core.batch import Messages, Prompt, PromptBatch
from gprl_lightning.errors import ConfigError

ROLES = ("system", "user", "assistant")


def load_prompts(data: DataConfig) -> tuple[list[Prompt], list[Prompt]]:
    """The (train, held-out) prompts of ``data``.

    Held-out prompts come from ``held_out_path``, or are the last ``held_out`` rows of ``path``.

    Raises:
        ConfigError: a missing file, a broken row (with file and line), or nothing left to train on.
    """
    prompts = _read(data.path, data.split, data)
    if data.held_out_path is not None:
        offset = len(prompts)
        held_out = _read(data.held_out_path, data.held_out_split, data)[: data.held_out]
        return prompts, [Prompt(offset + p.uid, p.messages, p.columns) for p in held_out]
    if data.held_out >= len(prompts):
        raise ConfigError(
            f"data.held_out={data.held_out}: {data.path} has {len(prompts)} prompts, which leaves "
            "none to train on. Lower data.held_out, or give data.held_out_path."
        )
    cut = len(prompts) - data.held_out
    return prompts[:cut], prompts[cut:]


def _read(path: str, split: str, data: DataConfig) -> list[Prompt]:
    file = Path(path)
    if file.suffix in {".jsonl", ".json"}:
        rows = _jsonl(file)
    elif file.suffix == ".parquet":
        rows = _hub_rows("parquet", "train", data_files=str(_existing(file)))
    elif path.startswith((".", "/", "~")):
        raise ConfigError(f"data.path={path!r}: expected a .jsonl or .parquet file, or a hub name.")
    else:
        rows = _hub_rows(path, split)
    return prompts_of_rows(rows, data.prompt_key, data.system_prompt, path)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise ConfigError(f"data.path={str(file)!r}: there is no such file.")
    return file


def _jsonl(file: Path) -> Iterator[Any]:
    with _existing(file).open(encoding="utf8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    where = f"{file}:{number}"
                    raise ConfigError(
                        f"{where}: not a JSON object; expected one in each line, found "
                        f"{line.strip()[:60]!r} ({error.msg}). Correct data.path."
                    ) from None


def _hub_rows(name: str, split: str, **kwargs: Any) -> Iterable[Any]:
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            f"data.path={name!r} needs the datasets package: pip install 'gprl-lightning[data]'."
        ) from None
    try:
        return datasets.load_dataset(name, split=split, **kwargs)
    except Exception as error:
        raise ConfigError(
            f"data.path={name!r}, data.split={split!r}: cannot be loaded ({error}). "
            "Expected a .jsonl or .parquet file, or the name of a data set on the hub."
        ) from error


def prompts_of_rows(rows: Iterable[Any], key: str, system: str | None, source: str) -> list[Prompt]:
    """Return the prompts of `rows`, each under `key`, with the system prompt where it has none.

    Raises:
        ConfigError: a broken row (with `source` and its number), or no rows.
    """
    head: Messages = () if system is None else ({"role": "system", "content": system},)
    prompts = []
    for number, row in enumerate(rows, 1):
        messages = _messages(row, key, f"{source}:{number}")
        if system is not None and messages[0]["role"] == "system":
            head_of_row: Messages = ()
        else:
            head_of_row = head
        columns = {"prompt": row[key], **{k: v for k, v in row.items() if k != key}}
        prompts.append(Prompt(number - 1, (*head_of_row, *messages), columns))
    if not prompts:
        raise ConfigError(f"data.path={source!r}: no rows.")
    return prompts


def _messages(row: Any, key: str, where: str) -> Messages:
    """One row's prompt as chat messages, or a ConfigError that says where and what."""
    if not isinstance(row, dict) or key not in row:
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise ConfigError(
            f"{where}: expected the key {key!r}, found {found}. Set data.prompt_key, or correct "
            "data.path."
        )
    value = row[key]
    if isinstance(value, str) and value.strip():
        return ({"role": "user", "content": value},)
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        messages = tuple(value)
        if all(_is_message(m) for m in messages) and messages[-1]["role"] == "user":
            return tuple({"role": m["role"], "content": m["content"]} for m in messages)
    raise ConfigError(
        f"{where}: {key!r} must be a text, or a list of "
        f"{{'role': {'|'.join(ROLES)}, 'content': text}} that ends with the user; "
        f"found {str(value)[:80]!r}. Correct data.path."
    )


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") in ROLES
        and isinstance(message.get("content"), str)
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
        """The prompts of this process at ``iteration`` (0-based): a pure function of it.

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
