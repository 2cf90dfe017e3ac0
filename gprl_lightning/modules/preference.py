"""Training a General Preference Model, or Bradley-Terry, on labelled pairs (METHOD §1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric

from gprl_lightning.core.distinct_axes import (
    attribute_loss,
    correlation_penalty,
    gate_information,
)
from gprl_lightning.core.pairs import pair_accuracy, pair_axis_scores, pair_loss, pair_scores
from gprl_lightning.data.pair_loader import PairBatch
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.tracking import metrics

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class PreferenceModule(LightningModule):
    """Trains ``model``; logs held-out accuracy, which a checkpoint callback can watch.

    Args:
        model: what is trained, see `models.initialization.from_backbone`.
        optimizer: makes the optimiser from the parameters. Published: AdamW, betas (0.9, 0.95), lr
            2e-6 (8B) to 1e-5 (2B).
        num_batches: of the whole run and per process, as ``len`` of a `PairLoader`.
        schedule: a name that ``transformers.get_scheduler`` knows.
        warmup_fraction: share of the run's steps that warm up.
        gradient_checkpointing: recompute activations in the backward pass, to save memory.
        decorrelation: weight of `core.distinct_axes.correlation_penalty`.
        gate_information: weight at which `core.distinct_axes.gate_information` is rewarded.
        attribute_weight: of `core.distinct_axes.attribute_loss`, on batches that have attributes.
    """

    def __init__(
        self,
        model: PreferenceModel,
        optimizer: OptimizerFactory,
        *,
        num_batches: int,
        schedule: str = "cosine",
        warmup_fraction: float = 0.03,
        gradient_checkpointing: bool = False,
        decorrelation: float = 0.0,
        gate_information: float = 0.0,
        attribute_weight: float = 1.0,
    ):
        super().__init__()
        self.model = model
        self.optimizer_factory, self.schedule = optimizer, schedule
        self.num_batches, self.warmup_fraction = num_batches, warmup_fraction
        self.decorrelation, self.gate_information = decorrelation, gate_information
        self.attribute_weight = attribute_weight
        if gradient_checkpointing:
            model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        self.held_out_loss, self.held_out_accuracy = MeanMetric(), MeanMetric()

    def scores(self, batch: PairBatch) -> Float[Tensor, " pairs"]:
        """Return s(chosen ≻ rejected | x) of each pair."""
        return pair_scores(*self.model(batch.texts))

    def training_step(self, batch: PairBatch, batch_index: int) -> Tensor:
        vectors, eigenvalues = self.model(batch.texts)
        scores = pair_scores(vectors, eigenvalues)
        loss = pair_loss(scores, batch.labels, batch.margins, self.model.tau).mean()
        loss = loss + self._axis_terms(vectors, eigenvalues, batch)
        accuracy = pair_accuracy(scores.detach(), batch.labels).mean()
        self.log(metrics.PREFERENCE_LOSS, loss.detach(), prog_bar=True, batch_size=len(batch))
        self.log(metrics.PREFERENCE_ACCURACY, accuracy, prog_bar=True, batch_size=len(batch))
        return loss

    def _axis_terms(self, vectors: Tensor, eigenvalues: Tensor, batch: PairBatch) -> Tensor | float:
        """What is asked of the axes beside the labels; 0 as long as no option asks."""
        terms: Tensor | float = 0.0
        scores = pair_axis_scores(vectors)
        if self.decorrelation:
            terms = terms + self.decorrelation * correlation_penalty(scores)
        if self.gate_information:
            terms = terms - self.gate_information * gate_information(eigenvalues[::2])
        if batch.attributes.numel():
            loss = attribute_loss(scores, batch.attributes, self.model.tau)
            terms = terms + self.attribute_weight * loss
        return terms

    def validation_step(self, batch: PairBatch, batch_index: int) -> None:
        scores = self.scores(batch)
        self.held_out_loss.update(pair_loss(scores, batch.labels, batch.margins, self.model.tau))
        self.held_out_accuracy.update(pair_accuracy(scores, batch.labels))
        self.log(metrics.HELD_OUT_LOSS, self.held_out_loss, batch_size=len(batch))
        self.log(
            metrics.HELD_OUT_ACCURACY, self.held_out_accuracy, prog_bar=True, batch_size=len(batch)
        )

    def configure_optimizers(self) -> Any:
        from transformers import get_scheduler

        parameters = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = self.optimizer_factory(parameters)
        # Not trainer.estimated_stepping_batches: it sets the loader up before its saved position is
        # there to be restored, and a resumed run would start the data anew.
        steps = math.ceil(self.num_batches / self.trainer.accumulate_grad_batches)
        warmup = round(self.warmup_fraction * steps)
        scheduler = get_scheduler(
            self.schedule, optimizer, num_warmup_steps=warmup, num_training_steps=steps
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
