"""A tiny run on one process, or sharded over several, as a program of each of them.

Arguments: folder, processes, and words: ``lora``, ``functions`` (as rewards), ``checkpointing``,
``double``, ``mixed`` (bfloat16), ``ddp`` (for comparison), ``plain`` (an architecture without a
fast path), ``large`` (30M parameters), ``memory`` (is measured, and nothing saved), ``files``
(policy and judge come from files, which several processes read shard by shard), ``layers`` (are
gathered one by one at a rollout, too), ``uneven`` (all but the first process stop after a token),
``generate`` (samples by Hugging Face's own code), or a checkpoint to go on from.
"""

import fcntl
import sys
from pathlib import Path
from typing import Any

import torch
from lightning import Callback

from gprl_lightning.callbacks.drift_monitor import DriftMonitor
from gprl_lightning.config import LoraConfig, PolicyConfig
from gprl_lightning.evaluation.judge import SourceJudge
from gprl_lightning.models.deferred import sources_wait
from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.models.function_rewards import FunctionRewards
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.lora import with_lora
from gprl_lightning.models.policy import Policy, load_policy, save_policy
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.models.preference_source import as_module
from gprl_lightning.models.pretrained_preference import (
    load_preference_model,
    save_preference_model,
)
from gprl_lightning.modules import gprl
from gprl_lightning.modules.partition import micro_batches
from gprl_lightning.rollout.ahead import next_rollout
from gprl_lightning.rollout.huggingface import HuggingFaceSampler
from gprl_lightning.runtime.fsdp2 import WatchedFSDP2
from gprl_lightning.runtime.sharding import full, is_sharded
from tests.tiny import VOCABULARY, exact, tiny_model, tiny_tokenizer
from tests.worlds import held_out, tiny_loader, tiny_module, tiny_trainer

ITERATIONS, PROMPTS = 4, 4
LARGE: dict[str, Any] = {"layers": 8, "hidden": 640, "spread": 1.0}


def vowels(completions: list[str], **_: Any) -> list[float]:
    return [float(sum(c in "aeiou" for c in text)) for text in completions]


def digits(completions: list[str], **_: Any) -> list[float]:
    return [float(sum(c.isdigit() for c in text)) for text in completions]


def write_files(folder: Path, words: set[str]) -> None:
    """Write the policy and a judge, unless another process has."""
    shape, axes = shape_of(words)
    arch = "gpt2" if "plain" in words else "llama"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "judge").exists():
            return
        save_policy(Policy(tiny_model(arch, **shape), tiny_tokenizer()), folder / "start")
        backbone = tiny_model(seed=3, **(shape if "large" in words else {})).base_model
        judge = from_backbone(backbone, tiny_tokenizer(), num_axes=axes)
        save_preference_model(judge, folder / "judge")


def shape_of(words: set[str]) -> tuple[dict[str, Any], int]:
    return LARGE if "large" in words else {"layers": 3}, 2 if "functions" in words else 3


def from_files(folder: Path, words: set[str], wait: bool) -> tuple[Policy, PreferenceModel]:
    write_files(folder, words)
    start, dtype = folder / "start", "float64" if "double" in words else "float32"
    lora = LoraConfig(r=2, alpha=4) if "lora" in words else None
    config: Any = PolicyConfig(
        path=str(start), lora=lora, gradient_checkpointing="checkpointing" in words
    )
    config.dtype = dtype  # the policy's own check knows what trains well
    torch.manual_seed(0)
    policy = load_policy(config, start, 1.0, wait)
    if "double" in words:
        policy.model = exact(policy.model)  # type: ignore[arg-type]
    with sources_wait(wait):
        judge = load_preference_model(folder / "judge")
    waiting = policy.weights_from, judge.weights_from
    assert all((found is not None) == wait for found in waiting)
    return policy, judge


def policy_of(words: set[str]) -> Policy:
    shape = LARGE if "large" in words else {"layers": 3}
    model: Any = tiny_model("gpt2" if "plain" in words else "llama", **shape)
    if "checkpointing" in words:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if "lora" in words:
        torch.manual_seed(0)
        model.enable_input_require_grads()
        model = with_lora(model, LoraConfig(r=2, alpha=4))
    if "double" in words:
        model = exact(model)
    return Policy(model, tiny_tokenizer())


class Memory(Callback):
    """What this process holds beyond its libraries, in MiB: at most until training starts, as it
    starts, at most in an iteration, and at most when the last one has been saved."""

    def __init__(self) -> None:
        self.libraries = status("VmRSS")
        self.found: dict[str, int] = {}
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.found["before"] = round(status("VmHWM") - self.libraries)
        self.found["at start"] = round(status("VmRSS") - self.libraries)
        Path("/proc/self/clear_refs").write_text("5")

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.found["at most"] = round(status("VmHWM") - self.libraries)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.found["with a checkpoint"] = round(status("VmHWM") - self.libraries)


def status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def main(folder: Path, world: int, words: set[str]) -> None:
    memory = Memory()
    checkpoint = next((word for word in words if word.endswith(".ckpt")), None)
    axes = 2 if "functions" in words else 3
    options: dict[str, Any] = {"inner_epochs": 2, "micro_batch_tokens": 130}
    options = options if "memory" not in words else {}
    iterations = ITERATIONS if "memory" not in words else 2
    files = from_files(folder, words, wait=world > 1) if "files" in words else None
    policy = files[0] if files else policy_of(words)
    module: Any = tiny_module(iterations, policy=policy, num_axes=axes, **options)
    if files:
        module.preference_model = FrozenModel(files[1])
    elif "large" in words:
        judge = from_backbone(tiny_model("llama", **LARGE).model, tiny_tokenizer(), num_axes=axes)
        module.preference_model = FrozenModel(judge)
    if "functions" in words:
        module.preference_model = FrozenModel(as_module(FunctionRewards([vowels, digits])))
    sharded: dict[str, Any] = {}
    if world > 1:
        gather = "layers" not in words
        strategy = "ddp" if "ddp" in words else WatchedFSDP2(folder, 60, gather)
        sharded = {"strategy": strategy, "devices": world}
    watching: list[Any] = [held_out(module, SourceJudge(module.preference_source))]
    watching = [memory] if "memory" in words else watching
    every, keep = (ITERATIONS + 1, 1) if "memory" in words else (1, 100)
    sharded |= {"precision": "bf16-mixed"} if "mixed" in words else {}
    trainer = tiny_trainer(folder, every, keep, num_axes=axes, callbacks=watching, **sharded)
    share = {"rank": trainer.global_rank, "world_size": world}
    loader = tiny_loader(module, iterations, PROMPTS // world, **share)
    parts: list[int] = []  # how many micro-batches each update of this process has

    def counted(*arguments: Any) -> Any:
        found = micro_batches(*arguments)
        parts.append(len(found))
        return found

    gprl.micro_batches = counted
    samples: list[Any] = []  # texts and log-probabilities of each rollout

    def recorded(*arguments: Any) -> Any:
        found = next_rollout(*arguments)
        samples.append((found.responses, found.sampler_logprobs))
        return found

    gprl.next_rollout = recorded
    if "generate" in words:
        module.sampler = HuggingFaceSampler()
    if "uneven" in words and trainer.global_rank > 0:
        policy.eos_ids = tuple(range(VOCABULARY))
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    monitor = next(c for c in vars(trainer)["callbacks"] if isinstance(c, DriftMonitor))
    named = () if "memory" in words else module.policy.named_parameters()
    result = {
        "weights": {n: full(p.detach()).clone() for n, p in named},
        "metrics": {k: float(v) for k, v in trainer.logged_metrics.items()},
        "state": monitor.state.state_dict(),
        "memory": memory.found,
        "parts": parts,
        "samples": samples,
        "multipliers": module.control.axis_multipliers,
    }
    torch.save(result, folder / f"rank{trainer.global_rank}.pt")
    if "memory" not in words and (trainer.is_global_zero or is_sharded(module.policy)):
        save_policy(module.policy, folder / "policy", merged=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), set(sys.argv[3:]))
