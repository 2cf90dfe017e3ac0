"""Whole runs on the device: precisions, adapters, and a resume that is bit-equal."""

from __future__ import annotations

import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import torch

from tests.benchmarks.bench_memory_plan import compare
from tests.gpu.correctness import Finding

ROOT = Path(__file__).parents[2]
TRAINER = "gpu" if torch.cuda.is_available() else "cpu"
SMOKE = ("experiment=smoke", f"trainer={TRAINER}", "logger=csv", "evaluation.judge=none")
KINDS = {
    "bf16-mixed": ("trainer.precision=bf16-mixed",),
    "bfloat16 weights, float32 masters": (
        "trainer.precision=32-true",
        "policy.dtype=bfloat16",
        "optimizer=adamw_masters",
    ),
    "moments in 8 bits": ("trainer.precision=bf16-mixed", "optimizer=adamw_8bit"),
    "adapters on 4 bits": ("trainer.precision=32-true", "policy.dtype=bfloat16", "lora=qlora"),
    "all but the policy offloaded": (
        "trainer.precision=bf16-mixed",
        "offload=[reference,preference_model]",
    ),
    "adapters, bf16-mixed": ("trainer.precision=bf16-mixed", "lora=adapters"),
}


def train(folder: Path, cache: Path, *overrides: str) -> str:
    """Run ``train.py`` there. Return the end of what it printed, or raise with it."""
    places = f"hydra.run.dir={folder}", f"paths.cache={cache}"
    command = [sys.executable, "train.py", *SMOKE, *places, *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-2000:])
    return done.stdout[-2000:]


def weights_of(folder: Path) -> str:
    """A hash of the policy that a run has left."""
    digest = sha256()
    for file in sorted((folder / "policy").glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def two_iterations(folder: Path, *overrides: str) -> Finding:
    """Train for two iterations, the preference model first."""
    started = perf_counter()
    train(folder, folder.parent / "cache", "iterations=2", *overrides)
    return Finding({"seconds": round(perf_counter() - started, 1)}, weights_of(folder) != "")


def smollm2(root: Path, shape: Path | None) -> list[str]:
    """Return the settings of twenty iterations, of its weights or of random ones of its shape.

    Args:
        root: where the run goes.
        shape: its config and tokenizer, for random weights; None: its package is there.
    """
    cache = root / "cache"
    if shape is not None:
        from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

        torch.manual_seed(0)
        folder = cache / "smollm2_135m"  # what the package's weights are converted to, once
        config = AutoConfig.from_pretrained(shape, trust_remote_code=False)
        LlamaForCausalLM(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(shape, trust_remote_code=False).save_pretrained(folder)
    return ["experiment=smollm2_135m", "trainer=gpu", "iterations=20", "logger=csv",
            f"hydra.run.dir={root / 'smollm2'}", f"paths.cache={cache}"]  # fmt: skip


def peak_is_as_planned(*overrides: str) -> Finding:
    """What the tensors of a run took, against its memory plan: within 15 %."""
    plan, measured = compare("device" if TRAINER == "gpu" else "small", f"trainer={TRAINER}",
                             *overrides)  # fmt: skip
    ratio = plan / measured
    figures: dict[str, float | str] = {
        "planned GB": plan / 1e9,
        "measured GB": measured / 1e9,
        "ratio": ratio,
    }
    return Finding(figures, 0.85 <= ratio <= 1.15)


def resume_is_bit_equal(root: Path) -> Finding:
    """Four iterations in one go, against the same run that goes on from its second checkpoint."""
    kept = ("iterations=4", "checkpoint_every=2", "+trainer.deterministic=warn")
    whole, parted = root / "whole", root / "parted"
    train(whole, root.parent / "cache", *kept)
    shutil.copytree(whole, parted)
    (parted / "checkpoints" / "iteration_000004.ckpt").unlink()
    shutil.rmtree(parted / "policy")
    train(parted, root.parent / "cache", *kept)
    hashes = weights_of(whole), weights_of(parted)
    return Finding(dict(zip(("whole", "resumed"), hashes, strict=True)), hashes[0] == hashes[1])
