"""Train a preference model: by command (`task=train_preference_model`), or on demand for a built-in
policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger

from gprl_lightning.callbacks.progress import PREFERENCE_MODEL, IterationBar
from gprl_lightning.config import Config, PreferenceTrainingConfig
from gprl_lightning.data.pair_loader import PairLoader
from gprl_lightning.data.preferences import PreferencePair, fingerprint
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.canonical_axes import turn_axes
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.network_files import load_network, one_line
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.models.pretrained_preference import save_preference_model
from gprl_lightning.models.tokenizer_files import load_tokenizer
from gprl_lightning.modules.preference import PreferenceModule
from gprl_lightning.runtime.checkpoint_io import RaisingCheckpointIO
from gprl_lightning.tracking import metrics

MAX_TOKENS = 2048  # of a text, where preference_model.max_tokens says nothing
ANGLE_EXAMPLES = 400  # conversations on which the value head's first angles are spread


def new_preference_model(
    config: Config, pairs: Sequence[PreferencePair], backbone: str
) -> PreferenceModel:
    """Put fresh heads on the network in the folder, or of the hub name, `backbone`."""
    options, training = config.preference_model, config.preference_training
    spread = pairs[:ANGLE_EXAMPLES] if training.spread_angles else ()
    return from_backbone(
        _backbone(config, backbone),
        load_tokenizer("preference_training.backbone", backbone, options.chat_template),
        kind=options.kind,  # type: ignore[arg-type]
        num_axes=options.num_axes or 3,
        gated=training.gated,
        tau=options.tau,
        eigenvalue_scale=options.eigenvalue_scale,  # type: ignore[arg-type]
        l2_normalize=options.l2_normalize,
        l2_scope=options.l2_scope,  # type: ignore[arg-type]
        gate_temperature=options.gate_temperature,
        values=options.values,  # type: ignore[arg-type]
        max_tokens=options.max_tokens or MAX_TOKENS,
        batch_size=options.batch_size,
        examples=[pair.chosen for pair in spread],
        seed=training.fit_seed,
    )


def _backbone(config: Config, path: str) -> Any:
    """The pretrained network, or its first ``preference_training.backbone_layers`` layers.

    Its own configuration says how many it has, so that what is saved loads as any other.
    """
    from transformers import AutoConfig, AutoModel

    key = "preference_training.backbone"
    with one_line(f"{key}={path!r}"):
        shape = AutoConfig.from_pretrained(path, trust_remote_code=False)
    layers, found = config.preference_training.backbone_layers, shape.num_hidden_layers
    if layers is not None:
        if layers > found:
            raise ConfigError(
                f"preference_training.backbone_layers={layers}: expected at most {found}, the "
                f"layers of {path}."
            )
        shape.num_hidden_layers = layers
        if getattr(shape, "layer_types", None):  # one entry per layer, where kinds differ
            shape.layer_types = shape.layer_types[:layers]
    dtype = getattr(torch, config.preference_model.dtype)
    return load_network(
        AutoModel, key, path, truncated=layers is not None, config=shape, dtype=dtype
    )


def fit_preference_model(
    config: Config,
    model: PreferenceModel,
    train: Sequence[PreferencePair],
    held_out: Sequence[PreferencePair],
    make_trainer: Callable[..., L.Trainer],
    folder: Path,
    loggers: Sequence[Logger] = (),
) -> float:
    """Train `model` in place; it keeps the weights with the best held-out accuracy, which is
    returned.

    Args:
        make_trainer: makes the Trainer from the keyword arguments that are this function's
            business.
        folder: its ``checkpoints/`` get ``best.ckpt``, and ``last.ckpt``, which resumes a training.
    """
    options = config.preference_training
    best = _best_checkpoint(folder)
    trainer = make_trainer(
        max_epochs=1,
        callbacks=[best, IterationBar("preference model", "batch", PREFERENCE_MODEL)],
        logger=list(loggers),
        enable_checkpointing=True,
        gradient_clip_val=options.max_grad_norm,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.accumulate_grad_batches, part = _parts(options, trainer.world_size)
    loader = partial(
        PairLoader,
        text=model.text,
        batch_size=part,
        seed=options.fit_seed,
        attributes=options.axis_attributes,
    )
    training = loader(
        train, epochs=options.epochs, rank=trainer.global_rank, world_size=trainer.world_size
    )
    per_epoch = len(training) / options.epochs
    trainer.val_check_interval = max(1, round(per_epoch * options.evaluate_every))
    module = _module(options, model, len(training))
    evaluation = loader(held_out, shuffle=False)
    model.train()  # as loaded it is in eval, where gradient checkpointing does nothing
    trainer.strategy.checkpoint_io = RaisingCheckpointIO()
    trainer.fit(module, training, evaluation, ckpt_path=config.ckpt_path, weights_only=True)
    kept = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(kept["state_dict"])
    model.eval()
    turn_axes(model, [(pair.chosen, pair.rejected) for pair in train], options.canonical_axes)
    model.attributes = tuple(options.axis_attributes)
    model.cpu()
    return float(best.best_model_score or 0.0)


def _parts(options: PreferenceTrainingConfig, processes: int) -> tuple[int, int]:
    """Return how many forward passes of how many pairs each process makes for one optimiser step.

    Raises:
        ConfigError: the pairs of a step cannot be dealt out evenly.
    """
    pairs, micro = options.batch_size, options.micro_batch_size
    share = pairs // processes
    if pairs % processes or (micro is not None and share % micro):
        raise ConfigError(
            f"preference_training.batch_size={pairs}: expected a multiple of the {processes} "
            f"processes × preference_training.micro_batch_size={micro}, since it counts the pairs "
            "of an optimiser step on all of them."
        )
    part = micro or share
    return share // part, part


def _best_checkpoint(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder / "checkpoints",
        filename="best",
        monitor=metrics.HELD_OUT_ACCURACY,
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )


def _module(
    options: PreferenceTrainingConfig, model: PreferenceModel, num_batches: int
) -> PreferenceModule:
    betas = (0.9, 0.95)
    return PreferenceModule(
        model,
        partial(torch.optim.AdamW, lr=options.lr, betas=betas, weight_decay=options.weight_decay),
        num_batches=num_batches,
        schedule=options.schedule,
        warmup_fraction=options.warmup_fraction,
        gradient_checkpointing=options.gradient_checkpointing,
        decorrelation=options.decorrelation,
        gate_information=options.gate_information,
        attribute_weight=options.attribute_weight,
    )


def save_trained(
    config: Config,
    model: PreferenceModel,
    pairs: Sequence[PreferencePair],
    accuracy: float,
    folder: Path,
) -> None:
    """Return the published layout, with what made the model in config.json."""
    made: dict[str, Any] = {
        "held_out_accuracy": accuracy,
        "pairs": len(pairs),
        "seed": config.preference_training.seed,
    }
    save_preference_model(
        model,
        folder,
        base_model=config.preference_training.backbone,
        data_fingerprint=fingerprint(pairs),
        metadata=made,
    )
