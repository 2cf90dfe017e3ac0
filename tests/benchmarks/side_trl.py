"""TRL's ``GRPOTrainer`` as the other side of a benchmark, in a process of its own.

    python -m tests.benchmarks.side_trl '{"policy": …, "prompts": …, "micro_batch_size": 8, …}'

Same weights, prompts, lengths, number of updates, learning rate and clipping as ours, a reference
model (β > 0), a reward in Python. What could cost it anything is off: gradient checkpointing,
saving, reports, the progress bar, printing of completions.
"""

from __future__ import annotations

import json
import sys
import tempfile
from time import perf_counter
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tests.benchmarks.turns import Turns


class TakeTurns(TrainerCallback):
    """`Turns`, once per rollout: every `updates` optimiser steps."""

    def __init__(self, updates: int) -> None:
        self.turns, self.updates = Turns(), updates

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.updates == 0:
            self.turns.iteration()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "completions/mean_length" in logs:
            self.turns.note("mean_length", logs["completions/mean_length"])
        if torch.cuda.is_available():
            self.turns.note("device_peak_bytes", torch.cuda.max_memory_allocated())

    def timed(self, generate: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = perf_counter()
            found = generate(*args, **kwargs)
            found.sum().item()  # wait for the device
            self.turns.note("rollout_seconds", perf_counter() - start)
            return found

        return run


def rewards(completions: list[Any], **kwargs: Any) -> list[float]:
    return [float(len(set(completion[0]["content"]))) for completion in completions]


def arguments(options: dict[str, Any]) -> GRPOConfig:
    micro = options["micro_batch_size"]
    rollouts = options["prompts_per_step"] * options["group_size"]
    gpu = torch.cuda.is_available()
    return GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rollouts // micro,
        num_generations=options["group_size"],
        max_completion_length=options["new_tokens"],
        num_iterations=options["updates"],
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        beta=0.02,
        loss_type="dr_grpo",
        max_grad_norm=1.0,
        max_steps=10**6,
        gradient_checkpointing=False,
        bf16=gpu,
        use_cpu=not gpu,
        shuffle_dataset=False,
        save_strategy="no",
        report_to="none",
        logging_steps=options["updates"],
        disable_tqdm=True,
        model_init_kwargs={"dtype": options["dtype"]},
    )


def main(options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    data = load_dataset("json", data_files=options["prompts"], split="train")
    data = data.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})
    turns = TakeTurns(options["updates"])
    trainer = GRPOTrainer(
        model=options["policy"],
        reward_funcs=rewards,
        args=arguments(options),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(options["policy"], padding_side="left"),
        callbacks=[turns],
        peft_config=adapters() if options["lora"] else None,
    )
    trainer.model.generate = turns.timed(trainer.model.generate)
    trainer.train()


def adapters() -> Any:
    """As ``lora=adapters``."""
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
