"""Real processes over gloo whose weights are sharded: they are one run, and can be resumed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import checkpoint
from transformers import AutoModelForCausalLM

from gprl_lightning.runtime.checkpoint_files import REST, checkpoint_to_resume, damage
from gprl_lightning.runtime.peers import EXIT_PEER
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.equality import differences
from tests.integration.test_kills import Run
from tests.processes import run_world
from tests.tiny_run import clean_environment, tiny_settings, train

pytestmark = pytest.mark.skipif(
    not hasattr(checkpoint, "HuggingFaceStorageReader"), reason="PyTorch is older than 2.8"
)
SCRIPT = Path(__file__).with_name("run_sharded.py")
# Adam divides by the root of a gradient's square: float32's rounding of a tiny one is seen whole.
TOLERANCE = {"double": 1e-12, "single": 1e-4}
# What a process says of itself, rounding of the batch's shape, and differences of near equals.
NOT_COMPARED = ("time/", "rollout/tokens_per_second", "rollout/logprob_mismatch", "eval/")


def run(folder: Path, world: int, *words: str) -> list[dict[str, Any]]:
    """Run the script; return what each process found."""
    folder.mkdir()
    run_world([str(SCRIPT), str(folder), str(world), *words], world, folder)
    return [torch.load(folder / f"rank{r}.pt", weights_only=False) for r in range(world)]


def apart(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Return the largest difference, relative to the largest entry of its tensor."""
    assert first.keys() == second.keys()
    return max(float((first[n] - second[n]).abs().max() / first[n].abs().max()) for n in first)


def metrics_apart(first: Path, second: Path) -> float:
    """Return the largest difference of two runs' metrics, relative to a metric's largest value."""
    expected, found = (read_metrics(folder / "metrics.csv") for folder in (first, second))
    assert expected.keys() == found.keys()
    gaps = [
        max(abs(a - b) for a, b in zip(values, found[name][1], strict=True))
        / max(1e-3, *map(abs, values))
        for name, (_, values) in expected.items()
        if not name.startswith(NOT_COMPARED)
    ]
    return max(gaps)


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("one") / "run"
    return run(folder, 1, "functions", "double"), folder


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("two") / "run"
    return run(folder, 2, "functions", "double", "files"), folder


def test_shards_on_two_processes_are_one_run(one, two):
    """Several epochs and micro-batches, of which the processes have unequal numbers; no process
    has a network whole but to read with it."""
    (single,), (first, second) = one[0], two[0]
    assert differences(first["weights"], second["weights"]) == []
    assert apart(single["weights"], first["weights"]) < TOLERANCE["double"]
    assert metrics_apart(one[1], two[1]) < 1e-6  # scores are float32
    texts = [[texts for texts, _ in found["samples"]] for found in (single, first, second)]
    assert texts[0] == [a + b for a, b in zip(*texts[1:], strict=True)]
    counts = list(zip(first["parts"], second["parts"], strict=True))
    assert len(counts) == 8
    assert any(a != b for a, b in counts)
    assert max(map(max, counts)) > 1


def test_the_saved_policy_is_whole(one, two):
    """In Hugging Face's files, by the names and of the class that one process writes."""
    folders = [folder / "policy" for _, folder in (one, two)]
    names = [sorted(f.name for f in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert configs[0] == configs[1]
    saved = load_file(folders[1] / "model.safetensors")
    weights = {n.removeprefix("model."): w for n, w in two[0][0]["weights"].items()}
    assert all(torch.equal(saved[name], weights[name]) for name in saved)
    loaded = AutoModelForCausalLM.from_pretrained(folders[1]).state_dict()
    assert differences(dict(loaded), {n: saved[n] for n in loaded}) == []


def test_a_resume_is_bit_equal(two, tmp_path):
    """Also one that gathers layers one by one at its rollouts, so that no process has all of them
    at any time."""
    whole, folder = two
    checkpoint = folder / "checkpoints" / "iteration_000002.ckpt"
    again = run(tmp_path / "again", 2, "functions", "double", "files", "layers", str(checkpoint))
    for before, after in zip(whole, again, strict=True):
        assert [texts for texts, _ in after["samples"]] == [t for t, _ in before["samples"][2:]]
        assert differences(before["weights"], after["weights"]) == []
        assert differences(before["state"], after["state"]) == []


def test_a_damaged_shard_is_passed_over(two, tmp_path):
    """What is resumed is the newest checkpoint whose shards have their checksums."""
    folder = tmp_path / "run"
    shutil.copytree(two[1] / "checkpoints", folder / "checkpoints")
    newest = folder / "checkpoints" / "iteration_000004.ckpt"
    assert checkpoint_to_resume(None, folder) == newest
    shard = max(newest.glob("shard-00002-*"))
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    assert "does not have its checksum" in str(damage(newest))
    with pytest.warns(UserWarning, match="iteration_000004.ckpt is truncated or corrupt"):
        before = checkpoint_to_resume(None, folder)
    assert before is not None and before == newest.with_name("iteration_000003.ckpt")
    max(before.glob("shard-00001-*")).unlink()
    assert "is missing" in str(damage(before))
    (before / REST).unlink()
    assert damage(before) is not None


# The command --------------------------------------------------------------------------------------

FSDP2 = {
    "trainer": "fsdp2", "trainer.accelerator": "cpu", "trainer.devices": 2,
    "trainer.precision": "32-true", "threads": 1, "logger": "none", "checkpoint_every": 1,
    "algorithm.minibatches": 1,
}  # fmt: skip


def command(folder: Path, **more: Any) -> list[str]:
    options = {**tiny_settings(folder), **FSDP2, **more}
    return [f"{key}={value}" for key, value in options.items()]


@pytest.mark.slow
def test_the_command_trains_resumes_and_refuses(tmp_path):
    """Another number of processes is refused by name, and allowed by name: shards are dealt out
    anew."""
    options, environment = command(tmp_path), clean_environment()
    run = f"hydra.run.dir={tmp_path / 'run'}"
    done = train(*options, run, environment=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "is read whole by each process" not in done.stdout + done.stderr
    alone = [f"hydra.run.dir={tmp_path / 'alone'}", "trainer=cpu", "trainer.devices=1"]
    alone += ["data.prompts_per_step=4"]  # a process has two
    assert train(*options, *alone, environment=environment).returncode == 0
    policies = [
        load_file(tmp_path / run / "policy" / "model.safetensors") for run in ("alone", "run")
    ]
    assert apart(*policies) < 1e-4  # at the command's own rate
    assert metrics_apart(tmp_path / "alone", tmp_path / "run") < 1e-4
    again = [*options, run, "iterations=3"]
    refused = train(*again, "trainer.devices=1", environment=environment)
    assert refused.returncode == 3
    assert "processes: expected 2, as in the checkpoint; found 1" in refused.stderr
    assert "resume.allow=[processes]" in refused.stderr
    dealt = train(*again, "trainer.devices=1", "resume.allow=[processes]", environment=environment)
    assert dealt.returncode == 0, dealt.stderr[-3000:]
    assert read_metrics(tmp_path / "run" / "metrics.csv")["train/loss"][0] == [1, 2, 3]
    single = tmp_path / "run" / "checkpoints" / "iteration_000003.ckpt"
    back = [*options, f"ckpt_path={single}", f"hydra.run.dir={tmp_path / 'back'}", "iterations=4"]
    done = train(*back, "resume.allow=[processes,metrics]", environment=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_ten_kills_of_a_rank(tmp_path):
    """`pytest -m slow -s -k ten_kills tests/integration/test_sharded.py` prints them."""
    options = dict(pair.split("=", 1) for pair in command(tmp_path))
    options |= {"iterations": "20", "evaluation.judge": "none"}
    never, often = Run(options, tmp_path / "never"), Run(options, tmp_path / "often")
    expected = never.finish()
    generator = random.Random(2)
    for number in range(10):
        process, begun = often.start(), often.iteration
        often.wait_until(process, lambda begun=begun: often.iteration > begun)
        time.sleep(generator.uniform(0, 0.3))
        victim = (process.pid, *children_of(process.pid))[number % 2]
        os.kill(victim, signal.SIGKILL)
        code = process.wait(120)
        print(f"{number + 1:2d}  rank {number % 2} at iteration {often.iteration}: exit {code}")
        assert code == (-signal.SIGKILL if number % 2 == 0 else EXIT_PEER)
    assert often.finish() == expected


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


# Longer tables ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["full", "lora", "plain", "generate"])
def test_processes_that_stop_at_different_steps_go_on_together(tmp_path, trained):
    """Bit for bit what they do when the policy is gathered; and shards that are read from files are
    those of a network that was there whole."""
    words = (trained, "gpm", "double", "uneven")
    whole = run(tmp_path / "whole", 2, *words)
    layers = run(tmp_path / "layers", 2, *words, "files", "layers")
    for one, other in zip(whole, layers, strict=True):
        assert differences(one["weights"], other["weights"]) == []
        for (texts, logprobs), (others, theirs) in zip(
            one["samples"], other["samples"], strict=True
        ):
            assert texts == others
            assert torch.equal(logprobs, theirs)
    widths = [[logprobs.shape[1] for _, logprobs in found["samples"]] for found in whole]
    assert max(widths[1]) == 1
    assert min(widths[0]) > 1


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("reward", ["gpm", "functions"])
@pytest.mark.parametrize("trained", ["full", "lora", "checkpointing"])
def test_table_of_equality(tmp_path, trained, reward, precision, world):
    """`pytest -m slow -s tests/integration/test_sharded.py` prints it."""
    words = (trained, reward, precision)
    (single,) = run(tmp_path / "one", 1, *words)
    found = run(tmp_path / "several", world, *words)
    weights = apart(single["weights"], found[0]["weights"])
    figures = metrics_apart(tmp_path / "one", tmp_path / "several")
    print(f"\n{trained:13} {reward:9} {precision:6} {world}: {weights:.0e} {figures:.0e}")
    exact = precision == "double" and reward == "functions"
    assert weights < (TOLERANCE["double"] if exact else TOLERANCE["single"])
    assert figures < 1e-4
    assert all(differences(found[0]["weights"], other["weights"]) == [] for other in found)
