"""Options of Lightning's Trainer that a run of ours cannot have, and why."""

from __future__ import annotations

from typing import Any

from gprl_lightning.errors import ConfigError

# Each is tried with every policy.dtype, adapters and checkpointing, by a test.
PRECISIONS = ("32-true", "bf16-mixed", "32", 32, "bf16", None)
SETTLED_LATER = "auto"  # by the machine: `tasks.machine`
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
# One device, or the whole policy on each of several.
STRATEGIES = (
    "auto",
    "ddp",
    "ddp_find_unused_parameters_false",
    "ddp_find_unused_parameters_true",
    "lightning.pytorch.strategies.DDPStrategy",
    "lightning.pytorch.strategies.SingleDeviceStrategy",
)
MOST_DEVICES, MOST_NODES = 64, 4096
# Of one machine, without a default of ours that would do: the option, what it may be, and why.
NEEDED = {
    "max_epochs": ((1,), "one epoch is the whole run. Set iterations instead"),
    "log_every_n_steps": ((1,), "metrics.csv has a row for every iteration"),
    "use_distributed_sampler": ((False,), "our loaders share the rows out to the processes"),
    "enable_checkpointing": ((True, None), "checkpoints are ours. Set checkpoint_every instead"),
}
# Options that manual optimisation, our loader or our own callbacks leave nothing to do; and ours.
NOT_THE_TRAINERS = {
    "gradient_clip_val": "algorithm.max_grad_norm",
    "gradient_clip_algorithm": "algorithm.max_grad_norm",
    "accumulate_grad_batches": "algorithm.micro_batch_size",
    "max_steps": "iterations",
    "limit_train_batches": "iterations",
    "overfit_batches": "iterations",
    "fast_dev_run": "iterations",
    "max_time": "iterations",
    "min_steps": "iterations",
    "min_epochs": "iterations",
    "reload_dataloaders_every_n_epochs": "iterations",
    "limit_val_batches": "evaluation.prompts",
    "val_check_interval": "evaluation.every or preference_training.evaluate_every",
    "check_val_every_n_epoch": "evaluation.every",
    "callbacks": "callbacks.<name>",
    "logger": "logger.<name>",
    "default_root_dir": "hydra.run.dir",
    "plugins": "trainer.precision and trainer.strategy",
    "barebones": "logger=none callbacks=none",
}


def check_trainer(trainer: dict[str, Any]) -> None:
    """Raise ConfigError for the first option of ``trainer`` that a run cannot have."""
    for option, ours in NOT_THE_TRAINERS.items():
        if trainer.get(option) is not None:
            raise ConfigError(
                f"trainer.{option}={trainer[option]!r}: expected none, because that is not the "
                f"trainer's to do here. Set {ours} instead."
            )
    for option, (allowed, reason) in NEEDED.items():
        found = trainer.get(option)
        if not any(type(found) is type(one) and found == one for one in allowed):
            raise ConfigError(
                f"trainer.{option}={found!r}: expected {allowed[0]!r}, because {reason}."
            )
    precision = trainer.get("precision", "32-true")
    if precision not in (*PRECISIONS, SETTLED_LATER):
        raise ConfigError(
            f"trainer.precision={precision!r}: expected 32-true, bf16-mixed or auto. Gradients are "
            "clipped here, which float16's loss scaling would upset, and the weights' own dtype is "
            "policy.dtype's. Set trainer.precision=bf16-mixed, or, for bfloat16 weights, "
            "trainer.precision=32-true policy.dtype=bfloat16."
        )
    _check_devices(trainer)


def _check_devices(trainer: dict[str, Any]) -> None:
    accelerator = trainer.get("accelerator", "auto")
    if accelerator not in ACCELERATORS:
        raise ConfigError(
            f"trainer.accelerator={accelerator!r}: expected one of {' | '.join(ACCELERATORS)}."
        )
    strategy = trainer.get("strategy", "auto")
    word = strategy.get("_target_") if isinstance(strategy, dict) else strategy
    if word not in STRATEGIES:
        raise ConfigError(
            f"trainer.strategy={word!r}: expected auto or ddp, because every process must hold all "
            "of the policy: its checks, the frozen reference and the saved folder read whole "
            "weights, where this one shards them or starts processes otherwise. Set "
            "trainer.strategy=ddp."
        )
    for option, most in (("devices", MOST_DEVICES), ("num_nodes", MOST_NODES)):
        count = trainer.get(option, 1)
        if isinstance(count, int) and (count > most or count < -1 or count == 0):
            raise ConfigError(f"trainer.{option}={count!r}: expected 1 to {most}.")
