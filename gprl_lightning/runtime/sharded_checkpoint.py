"""Checkpoints of a run whose weights are spread over processes: a folder that all of them write.

    iteration_000020.ckpt/
      shard-00001-….safetensors    the weights and moments of rank 0, and of each other
      rest.ckpt                    all else, and the header with the shards' sizes and checksums

The shards are written and read by `torch.distributed.checkpoint`, in plain safetensors: nothing is
unpickled, and any number of processes can read them. ``rest.ckpt`` comes last. Ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as _checkpoint
from lightning import LightningModule
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from gprl_lightning.errors import CheckpointCorrupt, NotFinite, ResumeRefused
from gprl_lightning.runtime.checkpoint_files import FILES, REST, SHARDS, crc_of
from gprl_lightning.runtime.checkpoint_io import KEY, PlainCheckpointIO, flush
from gprl_lightning.runtime.disk import disk_error
from gprl_lightning.runtime.processes import of_every_process, processes, rank
from gprl_lightning.runtime.sharding import local

dcp: Any = _checkpoint  # without types of its own
FILE_BYTES = 1 << 28  # of a process's shards in one file, about
WEIGHTS, MOMENTS = "weights", "moments"


def save_sharded(checkpoint: dict[str, Any], folder: Path, io: PlainCheckpointIO) -> None:
    """Write a checkpoint, each process its own shards; ``io.failure`` says on all if one could not.

    Args:
        checkpoint: as Lightning dumps it on every process; its spread tensors are taken out.
        folder: to write; nobody reads it before it has its final name.
        io: writes what is not spread.
    """
    tensors = dict(_take_out(checkpoint))
    failure: BaseException | None = None
    try:
        if bad := [name for name, value in tensors.items() if not local(value).isfinite().all()]:
            raise NotFinite(
                f"optimizer.lr: expected finite weights and moments; found others in {bad[0]}. "
                "Nothing is saved of them: the checkpoint before is whole. Lower optimizer.lr."
            )
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, NotFinite) as error:
        failure = error
    if not _first(failure):
        failure = _write_shards(tensors, folder)
    found = of_every_process((failure, {} if failure else _of_this_process(folder)))
    io.failure = next((error for error, _ in found if error is not None), None)
    if io.failure is None and rank() == 0:
        header = checkpoint.setdefault(KEY, {})
        header[FILES] = {name: sums for _, files in found for name, sums in files.items()}
        io.save_checkpoint(checkpoint, folder / REST)
    io.failure = _first(io.failure)


def _write_shards(tensors: dict[str, Tensor], folder: Path) -> BaseException | None:
    writer = dcp.HuggingFaceStorageWriter(
        str(folder), fqn_to_index_mapping=_files_of(tensors), save_distributed=True
    )
    try:
        dcp.save(tensors, storage_writer=writer)
    except dcp.CheckpointException as error:  # on every process, with what each of them met
        mine = error.failures.get(rank())
        number = disk_error(mine[0]) if mine else None
        return None if mine is None else OSError(number, str(mine[0]))
    return None


def _files_of(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Return the number of the file of each tensor, from 1: a file is put together in memory."""
    files, before = {}, 0
    for name, tensor in tensors.items():
        files[name] = 1 + before // FILE_BYTES
        before += tensor.numel() * tensor.element_size() // processes()
    return files


def _first(failure: BaseException | None) -> Any:
    """Return the first process's failure that has one; every process must ask."""
    return next((error for error in of_every_process(failure) if error is not None), None)


def _of_this_process(folder: Path) -> dict[str, list[int]]:
    """Return size and checksum of the shards that this process has written, which the disk then
    holds."""
    files = sorted(folder.glob(SHARDS.format(rank() + 1)))
    for file in files:
        flush(file)
    return {file.name: [file.stat().st_size, crc_of(file)] for file in files}


def _take_out(checkpoint: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Take the spread tensors out of a checkpoint, by names that say where they were.

    Of tied weights, which have several names, the first one is kept.
    """
    state = checkpoint["state_dict"]
    yield from _spread(state).items()
    plain = {n: t.detach() for n, t in state.items() if not isinstance(t, DTensor)}
    checkpoint["state_dict"] = plain
    for number, optimizer in enumerate(checkpoint["optimizer_states"]):
        moments = {i: dict(values) for i, values in optimizer["state"].items()}
        for index, values in moments.items():
            for name in [name for name, value in values.items() if isinstance(value, DTensor)]:
                yield f"{MOMENTS}/{number}/{index}/{name}", values.pop(name)
        optimizer["state"] = moments


def _spread(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the spread parameters of a module's state, each once, by their names in the shards."""
    names = {id(value): name for name, value in reversed(state.items())}
    kept = {n: t for n, t in state.items() if isinstance(t, DTensor) and names[id(t)] == n}
    return {f"{WEIGHTS}/{name}": value.detach() for name, value in kept.items()}


def load_sharded(
    folder: Path, module: LightningModule, optimizers: Sequence[Optimizer]
) -> dict[str, Any]:
    """Return a checkpoint, each process with its own shards of its tensors.

    Args:
        folder: that `save_sharded` wrote, with as many processes as now, or with others.
        module: whose weights are to be restored; it is sharded.
        optimizers: likewise, with their parameters.

    Raises:
        ResumeRefused: a checkpoint of a run that was not sharded.
        CheckpointCorrupt: a shard lacks something, or is damaged.
    """
    if not (folder / REST).is_file():
        raise ResumeRefused(
            f"trainer.strategy=fsdp2: expected a folder with {REST}; found {folder}, a checkpoint "
            "of a run whose weights were not sharded. Go on with the trainer that wrote it."
        )
    checkpoint = PlainCheckpointIO().load_checkpoint(folder / REST)
    reader = dcp.HuggingFaceStorageReader(str(folder))
    weights = module.state_dict(keep_vars=True)
    tensors = {name: torch.empty_like(value) for name, value in _spread(weights).items()}
    held = [[p for g in o.param_groups for p in g["params"]] for o in optimizers]
    for key in reader.read_metadata().state_dict_metadata:
        if key.startswith(MOMENTS):
            _, number, index, _ = key.split("/")
            tensors[key] = torch.empty_like(held[int(number)][int(index)])
    try:
        dcp.load(tensors, storage_reader=reader)
    except dcp.CheckpointException as error:
        found = str(error).strip().splitlines()[-1][:200]
        raise CheckpointCorrupt(
            f"ckpt_path: expected the weights and moments of this run in {folder}; found {found} "
            "Go on from an earlier checkpoint."
        ) from error
    # Of tied weights the other names stand for the first one's value, which is set by then.
    spread = {n: t.detach() for n, t in weights.items() if isinstance(t, DTensor)}
    checkpoint["state_dict"] = {**spread, **checkpoint["state_dict"]}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if kind == WEIGHTS:
            checkpoint["state_dict"][name] = value
        else:
            number, index, name = name.split("/")
            checkpoint["optimizer_states"][int(number)]["state"][int(index)][name] = value
    return checkpoint
