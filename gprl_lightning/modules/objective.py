"""What every objective that trains a policy shares: its optimiser, its schedule, its processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from gprl_lightning.config import SchedulerConfig
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.decoder import layer_step
from gprl_lightning.models.deferred import read_shards
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.runtime.processes import sum_gradients
from gprl_lightning.runtime.sharding import full, is_sharded, shard

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]


class PolicyObjective(L.LightningModule):
    """A policy that is trained by manual optimisation, one loader batch an iteration.

    A subclass implements ``training_step``, which returns ``{"iteration": Iteration}``, and says
    in `frozen` what must not move. Ours.

    Args:
        policy: the language model that is trained.
        optimizer: builds the optimiser from the policy's parameters that take gradients.
        scheduler: the learning-rate schedule over all optimiser steps of the run.
        iterations: length of the run.
        steps_per_iteration: optimiser steps in each.
        max_grad_norm: where the gradient's norm is clipped.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: OptimizerFactory,
        scheduler: SchedulerConfig,
        iterations: int,
        steps_per_iteration: int,
        max_grad_norm: float,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.policy = policy
        self.make_optimizer, self.scheduler = optimizer, scheduler
        self.iterations, self.steps_per_iteration = iterations, steps_per_iteration
        self.max_grad_norm = max_grad_norm

    @property
    def trained(self) -> nn.Module:
        """The policy."""
        return self.policy

    @property
    def frozen(self) -> Mapping[str, nn.Module]:
        """Nothing, unless a subclass says so."""
        return {}

    def contents_changed(self, names: set[str]) -> None:
        """Keep everything: nothing here was made from the contents of the run."""

    @property
    def trained_parameters(self) -> list[Tensor]:
        """The policy's parameters that take gradients."""
        return [p for p in self.policy.parameters() if p.requires_grad]

    def clipped_gradients(self) -> Tensor:
        """Sum the gradients over processes and clip them. Return their norm before clipping."""
        parameters = self.trained_parameters
        # A spread parameter's gradient has been summed, and spread, in the backward pass.
        sum_gradients(p for p in parameters if not isinstance(p, DTensor))
        return full(torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))

    def optimizer_and_schedule(self) -> tuple[LightningOptimizer, LRScheduler]:
        """Return the one optimiser and the one schedule, which are stepped by hand."""
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(schedule, LRScheduler)
        return optimizer, schedule

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        # A plain number would be put on the device, from where the logger reads it again.
        plain = isinstance(value, (int, float))
        super().log(name, torch.tensor(float(value)) if plain else value, *args, **kwargs)

    def configure_model(self) -> None:
        """Spread the policy and what stands beside it over the processes (``trainer=fsdp2``)."""
        mesh = self.device_mesh
        if mesh is None or is_sharded(self.policy):
            return
        networks = [m for part in self.frozen.values() for m in part.modules()]
        roots = [m for m in networks if isinstance(m, (Policy, PreferenceModel))]
        strategy: Any = self.trainer.strategy  # `runtime.fsdp2`'s: no other has a mesh
        mixed = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
        for root in (self.policy, *roots):
            # A judge computes in a dtype of its own, and its heads in float32.
            precision = mixed if isinstance(root, Policy) else None
            shard(root, mesh["data_parallel"], layer_step, precision, strategy.gather)
            if root.weights_from is not None:
                read_shards(root, strategy.root_device)

    def on_fit_start(self) -> None:
        epochs = self.trainer.max_epochs
        if epochs != 1:
            raise ConfigError(
                f"Trainer.max_epochs={epochs}: expected 1, because one pass over the loader is the "
                "whole run: a second one would replay its prompts and its random numbers. Set "
                "iterations instead."
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Gradients are summed once per optimiser step, after all micro-batches: DDP's own reducer,
        # which expects one backward pass per forward pass, stays out of it. Lightning puts it back
        # after each training step.
        model = self.trainer.strategy.model
        if isinstance(model, DistributedDataParallel):
            model.require_backward_grad_sync = False

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.trained_parameters)
        steps = self.iterations * self.steps_per_iteration
        warmup = round(steps * self.scheduler.warmup_fraction)
        schedule = get_scheduler(self.scheduler.name, optimizer, warmup, steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}
