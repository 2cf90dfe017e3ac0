"""What a checkpoint may hold, how it is read, and what a resume must find beside it."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from lightning import Callback

from gprl_lightning.errors import (
    CheckpointCorrupt,
    NotFinite,
    NotPlain,
    ResumeRefused,
)
from gprl_lightning.runtime.checkpoint_io import PlainCheckpointIO, read_header
from gprl_lightning.runtime.run_identity import FORMAT, RunIdentity, header_in
from gprl_lightning.tracking.loggers import MetricsCSV
from tests.worlds import tiny_loader, tiny_module, tiny_trainer

IDENTITY = RunIdentity({"seed": 0}, "d", "t", "p", "g", 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    fit(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def fit(folder, iterations=3, ckpt_path=None, **kwargs):
    module = tiny_module(iterations)
    trainer = tiny_trainer(folder, **kwargs)
    trainer.callbacks[-1].identity = IDENTITY
    trainer.fit(module, tiny_loader(module, iterations), ckpt_path=ckpt_path, weights_only=True)
    return module


def at(folder: Path, iteration: int) -> Path:
    return folder / "checkpoints" / f"iteration_{iteration:06d}.ckpt"


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def with_header(file: Path, checkpoint, header) -> None:
    with file.open("wb") as stream:
        torch.save(checkpoint, stream)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/run.json", json.dumps(header))


def rewritten(file: Path, change) -> None:
    """The checkpoint with something changed in it, and its own header."""
    checkpoint, header = torch.load(file, weights_only=True), read_header(file)
    change(checkpoint)
    with_header(file, checkpoint, header)


# Reading runs nothing -----------------------------------------------------------------------------


def test_a_crafted_checkpoint_runs_no_code(folder, tmp_path):
    sprung = tmp_path / "sprung"
    rewritten(at(folder, 2), lambda c: c.update(trap=Trap(sprung)))
    assert header_in(at(folder, 2)).iteration == 2
    with pytest.raises(CheckpointCorrupt, match="plain values"):
        fit(folder, ckpt_path=at(folder, 2))
    assert not sprung.exists()
    torch.load(at(folder, 2), weights_only=False)
    assert sprung.exists(), "the trap must be one"


@pytest.mark.parametrize("content", ["zip", "pickle", "text", "no header", "two headers", "list"])
def test_a_crafted_file_in_the_run_s_folder_is_refused_before_anything_is_unpickled(
    folder, tmp_path, content, monkeypatch
):
    file, sprung = at(folder, 9), tmp_path / "sprung"
    if content == "pickle":
        file.write_bytes(pickle.dumps(Trap(sprung)))
    elif content == "text":
        file.write_text("hello")
    else:
        with file.open("wb") as stream:
            torch.save({"trap": Trap(sprung)}, stream)
        with zipfile.ZipFile(file, "a") as archive:
            if content == "zip":
                archive.writestr("other/run.json", json.dumps({"format": FORMAT}))
            if content == "list":
                archive.writestr("archive/run.json", json.dumps([1]))
            if content == "two headers":
                for place in ("archive", "archive2"):
                    archive.writestr(f"{place}/run.json", json.dumps({"format": FORMAT}))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpickled"))
    with pytest.raises(ResumeRefused, match="does not say which run made it"):
        header_in(file)
    assert not sprung.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"iteration": "2"},
        {"rows": 2.5},
        {"identity": {"config": {}}},
        {"identity": {"config": 1, **{k: "" for k in ("data", "tokenizer", "policy")}}},
        {"identity": None},
    ],
)
def test_a_header_of_another_shape_is_none(folder, change):
    header = {**read_header(at(folder, 2)), **change}
    checkpoint = torch.load(at(folder, 2), weights_only=True)
    with_header(at(folder, 2), checkpoint, header)
    with pytest.raises(ResumeRefused, match="does not say which run made it"):
        header_in(at(folder, 2))


def test_a_misnamed_checkpoint_is_refused_with_its_name(folder):
    at(folder, 3).rename(at(folder, 2))
    with pytest.raises(ResumeRefused, match=r"expected the name iteration_000003\.ckpt"):
        header_in(at(folder, 2))


# Contents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["weights", "moments"])
def test_weights_or_moments_that_are_not_finite_are_refused(folder, part, value):
    def change(checkpoint):
        if part == "weights":
            next(iter(checkpoint["state_dict"].values())).view(-1)[0] = value
        else:
            checkpoint["optimizer_states"][0]["state"][0]["exp_avg_sq"].view(-1)[0] = value

    rewritten(at(folder, 2), change)
    with pytest.raises(CheckpointCorrupt, match=r"expected finite weights and moments.*1 of \d+"):
        fit(folder, ckpt_path=at(folder, 2))


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    class Breaks(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch.iteration == 1:
                next(pl_module.policy.parameters()).data[0] = float("nan")

    with pytest.raises(NotFinite, match=r"optimizer\.lr"):
        fit(tmp_path, callbacks=[Breaks()])
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["iteration_000001.ckpt"]


@pytest.mark.parametrize("part", ["state_dict", "loops", "optimizer_states", "lr_schedulers"])
def test_a_checkpoint_without_a_part_is_refused(folder, part):
    rewritten(at(folder, 2), lambda c: c.pop(part))
    with pytest.raises(CheckpointCorrupt, match=f"{part!r}.*found NoneType"):
        fit(folder, ckpt_path=at(folder, 2))


def test_a_callback_s_state_that_takes_code_to_read_is_refused_when_it_is_saved(tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return {"file": Path("x")}

    with pytest.raises(NotPlain, match=r"PosixPath at /callbacks/.*file"):
        fit(tmp_path, callbacks=[Odd()])
    assert list((tmp_path / "checkpoints").iterdir()) == []


# Writing ------------------------------------------------------------------------------------------


def test_a_checkpoint_is_written_to_its_own_folder_alone(tmp_path, monkeypatch):
    """Not by way of TMPDIR, which may be another disk, and not through a second copy in memory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    import io

    class NoBuffer(io.BytesIO):
        def write(self, data):
            assert len(data) < 100_000, "a checkpoint was held in memory"
            return super().write(data)

    monkeypatch.setattr(io, "BytesIO", NoBuffer)
    fit(tmp_path / "run", iterations=1)
    assert at(tmp_path / "run", 1).stat().st_size > 100_000


def test_a_failure_that_is_not_the_disk_s_keeps_its_name(tmp_path, monkeypatch):
    """Such as a peer's death, which says nothing of the disk."""

    class Dies(Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            raise RuntimeError("Connection closed by peer")

    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        fit(tmp_path, callbacks=[Dies()])


def test_the_io_tells_its_failure_and_leaves_the_file(tmp_path):
    io = PlainCheckpointIO()
    io.save_checkpoint({"state_dict": {}}, tmp_path)
    assert isinstance(io.failure, IsADirectoryError)
    io.save_checkpoint({"state_dict": {}}, tmp_path / "file")
    assert io.failure is None


# metrics.csv --------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["missing", "empty", "NULs", "header only", "cut", "no header"])
def test_rows_that_a_resume_would_lose_are_missed(folder, damage):
    file = folder / "metrics.csv"
    content = file.read_bytes()
    lines = content.splitlines(keepends=True)
    changed = {
        "empty": b"",
        "NULs": b"\0" * len(content),
        "header only": lines[0],
        "cut": b"".join(lines[:2]) + lines[2][:40],
        "no header": b"".join(lines[1:]),
    }
    file.write_bytes(changed[damage]) if damage in changed else file.unlink()
    before = file.read_bytes() if file.exists() else None
    rows = header_in(at(folder, 2)).rows
    assert rows == 2
    with pytest.raises(ResumeRefused, match=r"expected 2 rows.*resume\.allow=\[metrics\]"):
        MetricsCSV(folder).continue_from(2, rows)
    assert (file.read_bytes() if file.exists() else None) == before
    MetricsCSV(folder).continue_from(2)


def test_a_torn_last_row_beyond_the_checkpoint_is_no_loss(folder):
    file = folder / "metrics.csv"
    file.write_bytes(file.read_bytes()[:-20])
    log = MetricsCSV(folder)
    log.continue_from(2, 2)
    assert [int(row["trainer/iteration"]) for row in log.rows] == [1, 2]
