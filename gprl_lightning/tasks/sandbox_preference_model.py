"""The built-in preference models, which are trained on demand.

They are trained on gold-labelled pairs of the starting policy's own responses, on the policy's own
network, and cached under a fingerprint of all that they depend on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import lightning as L
import torch

from gprl_lightning.config import Config
from gprl_lightning.models.bt_ensemble import BTEnsemble
from gprl_lightning.models.builtin import made_again_if_damaged, make_once, policy_folder
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.models.pretrained_preference import load_preference_model
from gprl_lightning.sandbox.preference_data import pairs_fingerprint, sandbox_pairs
from gprl_lightning.tasks.fit_preference_model import (
    fit_preference_model,
    new_preference_model,
    save_trained,
)

# Of preference_model: where it lies, how many texts are read at once, what becomes of several.
NO_NUMBERS = ("path", "batch_size", "members", "folders", "combination", "disagreement_weight")


def sandbox_preference_model(config: Config) -> PreferenceModel:
    """Return the cached preference model of ``preference_model`` for this policy, trained now if
    there is none."""
    options = config.preference_model
    folder = Path(config.paths.cache) / f"{options.kind}_k{options.num_axes}_{fingerprint(config)}"
    make_once(folder, partial(_train, config))
    with made_again_if_damaged(folder):
        return load_preference_model(
            folder,
            num_axes=options.num_axes,
            kind=options.kind,
            tau=options.tau,
            dtype=options.dtype,
            max_tokens=options.max_tokens,
            batch_size=options.batch_size,
        )


def sandbox_ensemble(config: Config) -> BTEnsemble:
    """Return ``preference_model.members`` Bradley-Terry models of the same pairs as one reward.

    The first is `sandbox_preference_model`'s; the others differ from it by their heads' first
    weights and by the order of the pairs, as by the seed of fine-tuning in Coste et al.
    """
    options, training = config.preference_model, config.preference_training
    members = [
        sandbox_preference_model(
            replace(config, preference_training=replace(training, member=training.member + i))
        )
        for i in range(options.members)
    ]
    return BTEnsemble(members, options.combination, options.disagreement_weight)


def fingerprint(config: Config) -> str:
    """Return a hash of what a built-in preference model depends on: its pairs, all its options but
    those that change no number, and its training."""
    model = {k: v for k, v in asdict(config.preference_model).items() if k not in NO_NUMBERS}
    parts = [pairs_fingerprint(config), asdict(config.preference_training), model]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _train(config: Config, folder: Path) -> None:
    """Sample the starting policy, label pairs with the gold, train, and put the result in
    `folder`."""
    training = replace(config.preference_training, backbone=config.policy.path)
    config = replace(config, ckpt_path=None, preference_training=training)
    with torch.random.fork_rng():
        torch.manual_seed(training.fit_seed)
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
    shutil.rmtree(folder, ignore_errors=True)  # what is there is no model
    partial_folder.rename(folder)
    print(f"{folder.name}: held-out accuracy {accuracy:.3f} on {len(held_out)} gold-labelled pairs")
