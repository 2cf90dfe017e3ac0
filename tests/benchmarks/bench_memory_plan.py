"""The memory plan against measured peaks, on the CPU.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_memory_plan [SHAPE …]

Each shape trains a random Llama for two iterations in a process of its own; the peak is its largest
resident size. `make gpu` does the same on a GPU, where it is what the tensors took.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.composing import composed
from tests.tiny_run import clean_environment

# width, layers, MLP's width, vocabulary, prompts, group, new tokens, more settings
SHAPES: dict[str, tuple[int, int, int, int, int, int, int, tuple[str, ...]]] = {
    "small": (256, 4, 704, 8000, 2, 4, 48, ()),
    "wide": (768, 4, 2048, 8000, 2, 4, 48, ()),
    "deep": (512, 12, 1408, 8000, 2, 4, 96, ()),
    "vocabulary": (384, 4, 1024, 64_000, 2, 4, 48, ()),
    "device": (1024, 12, 2816, 32_000, 4, 8, 128, ()),
    "adapters": (768, 6, 2048, 8000, 2, 4, 48, ("lora=adapters",)),
}
PROMPT = 96


def overrides(folder: Path, shape: str) -> list[str]:
    """Write the models and prompts of a shape. Return the settings of its run."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from gprl_lightning.models.initialization import from_backbone
    from gprl_lightning.models.pretrained_preference import save_preference_model
    from tests.tiny import BOS, END_OF_TURN, EOS, PAD, tiny_tokenizer

    width, layers, inner, vocabulary, prompts, group, new, more = SHAPES[shape]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=4, vocab_size=vocabulary,
        max_position_embeddings=1024, bos_token_id=BOS, eos_token_id=[EOS, END_OF_TURN],
        pad_token_id=PAD,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "policy")
    tiny_tokenizer().save_pretrained(folder / "policy")
    judge = from_backbone(model.model, tiny_tokenizer(), num_axes=3)
    save_preference_model(judge, folder / "judge")
    rows = [json.dumps({"prompt": chr(97 + i) * (PROMPT - 20)}) for i in range(8)]
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    return [
        "experiment=own", f"policy.path={folder / 'policy'}", "preference_model=folder",
        f"preference_model.path={folder / 'judge'}", f"data.path={folder / 'prompts.jsonl'}",
        "data.held_out=0", "evaluation.judge=none", "evaluation.prompts=1",
        f"data.max_prompt_tokens={PROMPT}",
        f"data.prompts_per_step={prompts}", f"rollout.group_size={group}",
        f"rollout.max_new_tokens={new}", "iterations=2", "checkpoint_every=100", "logger=none",
        "drift=disabled", "callbacks=none", f"paths.output={folder / 'runs'}", *more,
    ]  # fmt: skip


def measure(folder: Path, settings: list[str]) -> float:
    """Return the peak of a run, in bytes."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_memory_plan", "--run", str(folder)]
    done = subprocess.run(
        [*command, *settings], env=clean_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout.splitlines()[-1])


def _run(folder: str, settings: list[str]) -> None:
    import torch

    from gprl_lightning.config.validation import validate
    from gprl_lightning.models.memory_plan import LIBRARIES
    from gprl_lightning.tasks.train_policy import train_policy

    cfg = composed(*settings)
    train_policy(validate(cfg), cfg, Path(folder) / "run")
    on_gpu = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
    print(torch.cuda.max_memory_allocated() + LIBRARIES if on_gpu else _status("VmHWM"))


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def compare(shape: str, *more: str) -> tuple[float, float]:
    """Return what was planned and what was measured, in bytes; on a GPU with ``trainer=gpu``."""
    from gprl_lightning.config.validation import validate
    from gprl_lightning.tasks.plan_memory import planned

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        settings = [*overrides(folder, shape), *more]
        plan = planned(validate(composed(*settings))).peak
        return plan, measure(folder, settings)


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        return _run(sys.argv[2], sys.argv[3:])
    print(f"{'shape':12}{'planned MB':>12}{'measured MB':>13}{'ratio':>8}")
    for shape in sys.argv[1:] or SHAPES:
        plan, found = compare(shape)
        print(f"{shape:12}{plan / 1e6:12.0f}{found / 1e6:13.0f}{plan / found:8.2f}", flush=True)


if __name__ == "__main__":
    main()
