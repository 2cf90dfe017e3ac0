"""``train.py`` in seconds: random tiny models and a few prompts in files, and settings for them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.policy import save_policy
from gprl_lightning.models.pretrained_preference import save_preference_model
from tests.processes import run_forked
from tests.tiny import tiny_model, tiny_policy, tiny_tokenizer


def tiny_settings(folder: Path) -> dict[str, str | int | float]:
    """Files in `folder`, and the settings of a run of two iterations on them."""
    save_policy(tiny_policy(), folder / "policy")
    backbone = tiny_model("llama", seed=3).model
    judge = from_backbone(backbone, tiny_tokenizer(), kind="gpm", num_axes=3)
    save_preference_model(judge, folder / "judge")
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"say {i}"}) + "\n" for i in range(8)))
    return {
        "sandbox_only": "false",
        "policy.path": str(folder / "policy"),
        "preference_model.path": str(folder / "judge"),
        "data.path": str(prompts),
        "data.held_out": 2,
        "data.prompts_per_step": 2,
        "rollout.group_size": 3,
        "rollout.max_new_tokens": 6,
        "evaluation.judge": "preference_model",
        "evaluation.prompts": 2,
        "iterations": 2,
        "drift.calibration_steps": 2,
        "callbacks.rollout_table.every": 1,
        "paths.output": str(folder / "runs"),
    }


def train(
    *overrides: str, environment: dict[str, str], timeout: int = 600
) -> subprocess.CompletedProcess[str]:
    """``python train.py`` as a process of its own, from the repository's root."""
    return run_forked(["train.py", *overrides], environment, timeout)


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment with no word of W&B but what is given."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    return {**kept, "OMP_NUM_THREADS": "1", **more}
