"""Checkpoints that are whole, say whose they are, and lose nothing; signals that ask for one."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning import Callback

from gprl_lightning.callbacks import iteration_checkpoint as checkpoint_callback
from gprl_lightning.config import Config
from gprl_lightning.config.run import RESUME_CONTENTS
from gprl_lightning.errors import CheckpointCorrupt, ConfigError, OutOfDisk, ResumeRefused
from gprl_lightning.modules.parts import Parts
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.runtime import run_identity as resume
from gprl_lightning.runtime.checkpoint_files import (
    checkpoint_to_resume,
    checkpoints,
    damage,
    iteration_of,
)
from gprl_lightning.runtime.preemption import Interrupted, Preempted, StopSignals
from gprl_lightning.runtime.run_identity import RunIdentity, flattened
from gprl_lightning.tasks.identity import run_identity
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.equality import differences, weights_hash
from tests.worlds import tiny_loader, tiny_module, tiny_policy, tiny_trainer

ITERATIONS = 4


def run(folder, ckpt_path=None, iterations=ITERATIONS, identity=None, sampler=None, **kwargs):
    module = tiny_module(iterations, lr=kwargs.pop("lr", 1e-3))
    module.sampler = sampler or module.sampler
    trainer = tiny_trainer(folder, **kwargs)
    trainer.callbacks[-1].identity = identity
    trainer.fit(module, tiny_loader(module, iterations), ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), folder


def at(folder, iteration):
    return folder / "checkpoints" / f"iteration_{iteration:06d}.ckpt"


class Rates(Callback):
    """The learning rate of each iteration."""

    def __init__(self, rates):
        self.rates = rates

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates[batch.iteration] = trainer.optimizers[0].param_groups[0]["lr"]


# Whole files --------------------------------------------------------------------------------------


@pytest.fixture
def copies(whole, tmp_path):
    shutil.copytree(whole[1] / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 0.9999])
def test_a_truncated_checkpoint_is_named_and_the_one_before_it_offered(copies, share):
    file = at(copies, 4)
    os.truncate(file, int(share * file.stat().st_size))
    with pytest.raises(CheckpointCorrupt) as refused:
        checkpoint_to_resume(str(file), copies)
    assert str(file) in str(refused.value)
    assert f"ckpt_path={at(copies, 3)}" in str(refused.value)
    with pytest.warns(UserWarning, match="iteration_000004.*Going on from the one before it"):
        assert checkpoint_to_resume(None, copies) == at(copies, 3)


def test_flipped_bits_are_found(copies):
    """In the weights themselves, where loading would not notice."""
    file, generator = at(copies, 4), random.Random(0)
    content = file.read_bytes()
    marker = whole_weights(file)
    for _ in range(5):
        place = content.index(marker) + generator.randrange(len(marker))
        broken = bytearray(content)
        broken[place] ^= 1 << generator.randrange(8)
        file.write_bytes(broken)
        assert "checksum" in str(damage(file))
    file.write_bytes(content)
    assert damage(file) is None


def whole_weights(file) -> bytes:
    state = torch.load(file, weights_only=True)["state_dict"]
    return state["policy.model.model.layers.0.mlp.up_proj.weight"].numpy().tobytes()


def test_where_a_run_goes_on_from(copies, tmp_path):
    assert checkpoint_to_resume(None, tmp_path / "new") is None
    assert checkpoint_to_resume(str(copies), tmp_path / "new") == at(copies, 4)
    assert checkpoint_to_resume(str(at(copies, 2)), copies) == at(copies, 2)
    at(copies, 5).with_suffix(".partial").write_bytes(b"half")
    assert checkpoint_to_resume(None, copies) == at(copies, 4)
    with pytest.raises(ConfigError, match=r"no iteration_\*\.ckpt"):
        checkpoint_to_resume(str(copies.parent), copies)
    for file in checkpoints(copies / "checkpoints"):
        file.write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(CheckpointCorrupt, match="4, all damaged"):
        checkpoint_to_resume(None, copies)


def test_no_half_written_file_stays(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    left = tmp_path / "checkpoints" / "iteration_000001.partial"
    left.write_bytes(b"half")
    run(tmp_path, iterations=1, keep=2)
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["iteration_000001.ckpt"]


class LimitsFiles(Callback):
    """From iteration `first` on, no file may be longer than so many bytes: the disk says EFBIG."""

    def __init__(self, first, length):
        self.first, self.length = first, length

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch.iteration == self.first:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.length, hard))


@pytest.fixture
def any_length():
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, kept)


def test_a_disk_that_fills_up_is_named_and_the_checkpoint_before_stays(tmp_path, any_length):
    with pytest.raises(OutOfDisk, match="File too large"):
        run(tmp_path, callbacks=[LimitsFiles(1, 50_000)])
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["iteration_000001.ckpt"]
    assert damage(at(tmp_path, 1)) is None


def test_metrics_that_find_no_room_are_warned_of_and_written_later(whole, tmp_path, any_length):
    """The run goes on: what it cannot do without is the checkpoint."""
    rows = (whole[1] / "metrics.csv").read_text().splitlines()
    limit = sum(len(row) + 1 for row in rows[:3])

    class MoreRoom(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch.iteration == 3:
                hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    with pytest.warns(UserWarning, match=r"metrics\.csv could not be written.*kept for later"):
        run(tmp_path, callbacks=[LimitsFiles(1, limit), MoreRoom()], every=ITERATIONS)
    assert read_metrics(tmp_path / "metrics.csv")["train/loss"][0] == [1, 2, 3, 4]


def test_too_little_disk_is_refused_before_the_first_rollout(tmp_path, monkeypatch):
    module = tiny_module()
    size = checkpoint_callback.checkpoint_bytes(module)
    run(tmp_path / "measured", iterations=1)
    assert 0.9 * size < at(tmp_path / "measured", 1).stat().st_size < 1.2 * size

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 3 * size - 1))
    module.sampler.sample = lambda *_: pytest.fail("there was a rollout")
    with pytest.raises(OutOfDisk, match=r"paths\.output: expected .* GB for 3 checkpoints; found"):
        tiny_trainer(tmp_path, keep=2).fit(module, tiny_loader(module))


# Nothing lost -------------------------------------------------------------------------------------


def test_a_kill_right_after_a_checkpoint_loses_no_row_of_metrics(whole, tmp_path, monkeypatch):
    save = checkpoint_callback.IterationCheckpoint.save

    def save_and_die(self, trainer, iteration):
        save(self, trainer, iteration)
        if iteration == 2:
            raise KeyError("killed")

    monkeypatch.setattr(checkpoint_callback.IterationCheckpoint, "save", save_and_die)
    with pytest.raises(KeyError):
        run(tmp_path)
    expected, found = (read_metrics(f / "metrics.csv") for f in (whole[1], tmp_path))
    for name in (n for n in expected if "time" not in n and "second" not in n):
        kept = [v for i, v in zip(*expected[name], strict=True) if i <= 2]
        assert found.get(name, ([], []))[1] == kept, name


def test_a_run_that_had_ended_goes_on_when_it_is_to_be_longer(tmp_path):
    rates = {}
    run(tmp_path, iterations=2)
    run(tmp_path, at(tmp_path, 2), iterations=4, callbacks=[Rates(rates)])
    assert rates == pytest.approx({2: 1e-3 * 2 / 4, 3: 1e-3 * 1 / 4}), "those of the longer run"
    assert read_metrics(tmp_path / "metrics.csv")["train/loss"][0] == [3, 4]


def test_a_run_that_has_ended_stays_as_it_is(whole, tmp_path):
    module, folder = whole
    again = run(tmp_path, at(folder, ITERATIONS))
    assert weights_hash(again.state_dict()) == weights_hash(module.state_dict())
    assert checkpoints(tmp_path / "checkpoints") == []


def test_whether_the_sampler_is_trusted_goes_on(tmp_path):
    """What the last iteration found, which the rows that a first rollout is asked about miss."""

    class Off(NativeSampler):
        def sample(self, policy, prompts, sampling, seed):
            rollout = super().sample(policy, prompts, sampling, seed)
            logprobs = rollout.old_logprobs.clone()
            logprobs[-1, 0] += 3e-3 if prompts.iteration > 0 else 0
            return replace(rollout, old_logprobs=logprobs, sampler_logprobs=logprobs)

    whole = run(tmp_path / "one", sampler=Off())
    resumed = run(tmp_path / "two", at(tmp_path / "one", 2), sampler=Off())
    assert resumed.sampler_differs
    assert weights_hash(resumed.state_dict()) == weights_hash(whole.state_dict())


def test_global_random_numbers_go_on(tmp_path):
    """Ours are counter-based; callbacks and other samplers may draw from the global generators."""

    class Draws(Callback):
        def __init__(self):
            self.drawn = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    first, second = Draws(), Draws()
    run(tmp_path / "one", callbacks=[first])
    torch.manual_seed(2), np.random.seed(2), random.seed(2)
    run(tmp_path / "two", at(tmp_path / "one", 2), callbacks=[second])
    assert second.drawn == first.drawn[2:]


# Signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)],
)
def test_a_signal_ends_the_iteration_saves_it_and_the_same_command_goes_on(
    whole, tmp_path, number, code, capsys
):
    class Preempt(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch.iteration == 1:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Preempted) as stopped:
        run(tmp_path, callbacks=[Preempt()], every=100)
    assert stopped.value.code == code
    assert "The same command in this folder goes on" in capsys.readouterr().out
    assert [f.name for f in checkpoints(tmp_path / "checkpoints")] == ["iteration_000002.ckpt"]
    assert signal.getsignal(number) == before
    again = run(tmp_path, checkpoint_to_resume(None, tmp_path))
    assert differences(whole[0].state_dict(), again.state_dict()) == []


def test_a_second_interrupt_stops_at_once(tmp_path):
    class Interrupt(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch.iteration == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
                pytest.fail("it went on")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as stopped:
        run(tmp_path, callbacks=[Interrupt()])
    assert stopped.value.code == 130
    assert [iteration_of(f) for f in checkpoints(tmp_path / "checkpoints")] == [1, 2]
    assert signal.getsignal(signal.SIGINT) == before


def test_signals_that_are_repeated_while_the_run_ends_change_nothing(tmp_path):
    """A scheduler repeats them; the first has been answered."""

    class Preempt(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            os.kill(os.getpid(), signal.SIGTERM)

    stop = StopSignals()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted) as stopped, stop.heard():
        run(tmp_path, callbacks=[Preempt()])
    os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 75
    stop.restore()
    assert signal.getsignal(signal.SIGTERM) == before == signal.SIG_DFL
    with stop.heard():
        pass
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_is_ignored_stays_so():
    """As ``nohup`` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals().heard():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_that_a_callback_ends_is_saved_and_can_go_on(whole, tmp_path):
    class Stops(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = batch.iteration == 1

    run(tmp_path, callbacks=[Stops()], every=100)
    assert [iteration_of(f) for f in checkpoints(tmp_path / "checkpoints")] == [2]
    again = run(tmp_path, at(tmp_path, 2))
    assert differences(whole[0].state_dict(), again.state_dict()) == []


def test_a_signal_in_the_last_iteration_lets_the_run_end(tmp_path):
    class Preempt(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            os.kill(os.getpid(), signal.SIGTERM)

    run(tmp_path, iterations=1, callbacks=[Preempt()])
    assert at(tmp_path, 1).exists()


# Whose it is --------------------------------------------------------------------------------------

CONFIG = {
    "seed": 0,
    "iterations": 80,
    "optimizer": {"lr": 1e-3},
    "logger": {"wandb": {"mode": "offline"}},
    "trainer": {"precision": "32-true", "enable_progress_bar": True},
}
IDENTITY = RunIdentity(flattened(CONFIG), "d", "t", "p", "g", 1)


def changed(**sections):
    return {**CONFIG, **sections}


@pytest.mark.parametrize(
    "config,line",
    [
        (changed(seed=1), "seed: expected 0, as in the checkpoint; found 1"),
        (changed(optimizer={"lr": 2e-3}), "optimizer.lr: expected 0.001"),
        (changed(drift={"ema": 0.5}), "drift.ema: expected None, as in the checkpoint; found 0.5"),
        (changed(trainer={"precision": "bf16-mixed"}), "trainer.precision: expected '32-true'"),
    ],
)
def test_another_configuration_is_refused_with_the_difference(config, line):
    with pytest.raises(ResumeRefused) as refused:
        resume.require_same_config(IDENTITY, config, [])
    assert line in str(refused.value)
    key = line.partition(":")[0]
    assert f"'resume.allow=[{key}]'" in str(refused.value)
    resume.require_same_config(IDENTITY, config, [key])
    resume.require_same_config(IDENTITY, config, [key.partition(".")[0]])


def test_harmless_keys_may_differ():
    config = changed(iterations=100, logger={}, paths={"output": "x"}, resume={"allow": ["seed"]})
    config["trainer"] = {"precision": "32-true", "enable_progress_bar": False}
    resume.require_same_config(IDENTITY, config, [])


@pytest.mark.parametrize("name", RESUME_CONTENTS)
def test_other_contents_are_refused(name):
    other = replace(IDENTITY, **{name: "other"})
    with pytest.raises(ResumeRefused, match=rf"(?s)contents.*{name}: expected .*found 'other'"):
        resume.require_same_contents(IDENTITY, other, [])
    resume.require_same_contents(IDENTITY, other, [name])
    assert resume.changed_contents(IDENTITY, other) == {name}


def test_identity_sees_data_tokenizer_and_models():
    module = tiny_module()
    prompts = tiny_loader(module).prompts
    judge = module.preference_model.module

    def identity(prompts=prompts, policy=module.policy, judge=judge):
        parts = Parts(
            Config(), policy, None, prompts, None, None, None, None, lambda: judge, None, None
        )
        assert parts.source is judge
        return run_identity(CONFIG, parts, 1)

    base = identity()
    assert base == identity()
    assert resume.changed_contents(base, identity(prompts=prompts[1:])) == {"data"}
    other = tiny_policy(seed=1)
    assert resume.changed_contents(base, identity(policy=other)) == {"policy"}
    other = tiny_policy()
    other.tokenizer.chat_template += " "
    assert resume.changed_contents(base, identity(policy=other)) == {"tokenizer"}
    options = {"tau": 0.2, "l2_normalize": False, "l2_scope": "axis", "gate_temperature": 2.0}
    for name, value in options.items():
        kept = getattr(judge, name)
        setattr(judge, name, value)
        assert resume.changed_contents(base, identity()) == {"preference_model"}
        setattr(judge, name, kept)
    judge.value_head.weight.data[0, 0] += 1e-6
    assert resume.changed_contents(base, identity()) == {"preference_model"}


def test_a_checkpoint_carries_its_identity_and_another_s_does_not(tmp_path, whole):
    run(tmp_path, iterations=1, identity=IDENTITY)
    assert resume.header_in(at(tmp_path, 1)).identity == IDENTITY
    with pytest.raises(ResumeRefused, match="does not say which run"):
        resume.header_in(at(whole[1], 1))


def test_a_checkpoint_of_another_version_is_refused(tmp_path, monkeypatch):
    """Rather than fail on what it lacks, in the middle of loading."""
    run(tmp_path, iterations=1, identity=IDENTITY)
    monkeypatch.setattr(resume, "FORMAT", resume.FORMAT + 1)
    with pytest.raises(ResumeRefused, match=f"of format {resume.FORMAT - 1}, which another"):
        resume.header_in(at(tmp_path, 1))


def test_an_allowed_learning_rate_is_the_one_that_is_used(tmp_path):
    """Lightning restores the old one with the optimiser's state, and says nothing."""
    rates = {}
    run(tmp_path, iterations=2, identity=IDENTITY)
    now = replace(IDENTITY, config={"optimizer.lr": 4e-3})
    run(tmp_path, at(tmp_path, 2), identity=now, lr=4e-3, callbacks=[Rates(rates)])
    assert rates == pytest.approx({2: 4e-3 * 2 / 4, 3: 4e-3 * 1 / 4})
