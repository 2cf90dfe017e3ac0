"""Options of Lightning's Trainer that a run of ours cannot have, and why."""

from __future__ import annotations

from typing import Any

from gprl_lightning.config.run import Config
from gprl_lightning.errors import ConfigError

# Each is tried with every policy.dtype, adapters and checkpointing, by a test.
PRECISIONS = ("32-true", "bf16-mixed", "32", 32, "bf16", None)
SETTLED_LATER = "auto"  # by the machine: `tasks.machine`
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
OFFLOADED = ("reference", "preference_model", "judges")
FSDP2, BNB = "fsdp2", "bitsandbytes."
# One device, the whole policy on each of several, or its shards.
STRATEGIES = (
    FSDP2,
    "auto",
    "ddp",
    "ddp_find_unused_parameters_false",
    "ddp_find_unused_parameters_true",
    "lightning.pytorch.strategies.DDPStrategy",
    "lightning.pytorch.strategies.SingleDeviceStrategy",
)
# What Lightning has besides, and why it cannot be had here.
REFUSED = {
    "fsdp": "FSDP1 flattens a layer's weights into one tensor, which the layers' own fast paths, "
    "adapters and checks cannot read. fsdp2 shards each weight by itself",
    "deepspeed": "DeepSpeed owns the optimiser step and its scale, and the backward pass; here the "
    "update is the algorithm's: it sums, clips and skips steps by itself. fsdp2 shards as much as "
    "ZeRO-3",
}
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


def check_sharding(config: Config) -> None:
    """Raise ConfigError for what a run whose weights are sharded over processes cannot have."""
    if config.trainer.get("strategy") != FSDP2:
        if not config.rollout.gather:
            raise ConfigError(
                "rollout.gather=false: expected trainer.strategy=fsdp2, whose processes hold "
                "shards of a policy that could be gathered; found trainer.strategy="
                f"{config.trainer.get('strategy', 'auto')}, which holds it whole. Set "
                "trainer=fsdp2, or rollout.gather=true."
            )
        return
    if config.task != "train_policy":
        raise ConfigError(
            f"trainer.strategy=fsdp2: expected task=train_policy; found task={config.task}, which "
            "shards no model. Set trainer=ddp or trainer=gpu."
        )
    sampler = config.rollout.sampler
    if str(sampler.get("_target_")).startswith("gprl_lightning.rollout.vllm"):
        raise ConfigError(
            "rollout.sampler: expected one that reads the policy's own tensors with "
            "trainer.strategy=fsdp2, whose processes hold shards that an engine cannot be given; "
            "found vLLM. Choose rollout=native, or trainer=ddp."
        )
    if sampler.get("fixed_shapes"):
        raise ConfigError(
            "rollout.sampler.fixed_shapes=true: expected null with trainer.strategy=fsdp2, because "
            "a captured step holds the weights' addresses, and a sharded policy is gathered "
            "elsewhere each time. Remove it."
        )
    if config.policy.quantization or str(config.optimizer.get("_target_")).startswith(BNB):
        raise ConfigError(
            "trainer.strategy=fsdp2: expected weights and moments in 16 bits or more; found "
            "bitsandbytes, which does not read shards. Set lora=adapters optimizer=adamw, or "
            "trainer=ddp."
        )
    if config.policy.compile:
        raise ConfigError(
            "policy.compile=true: expected false with trainer.strategy=fsdp2, whose layers are "
            "gathered while they run. Set policy.compile=false, or trainer=ddp."
        )
    if config.objective.get("round_length") is not None:
        raise ConfigError(
            f"objective.round_length={config.objective['round_length']}: expected null with "
            "trainer.strategy=fsdp2, because a round's reference, which is saved with the run, is "
            "not sharded. Choose another objective, or trainer=ddp."
        )


def check_offload(config: Config) -> None:
    """Raise ConfigError for a network that cannot wait on the CPU."""
    for name in config.offload:
        if name not in OFFLOADED:
            raise ConfigError(
                f"offload={config.offload}: expected some of {', '.join(OFFLOADED)}; found {name}."
            )
    if not config.offload:
        return
    if config.task != "train_policy":
        raise ConfigError(
            f"offload={config.offload}: expected task=train_policy; found task={config.task}. Set "
            "offload=[]."
        )
    if config.trainer.get("accelerator") == "cpu":
        raise ConfigError(
            f"offload={config.offload}: expected a device other than the CPU, where all networks "
            "are anyway; found trainer.accelerator=cpu. Set trainer=gpu, or offload=[]."
        )
    if config.trainer.get("strategy") == FSDP2 or config.trainer.get("devices", 1) != 1:
        raise ConfigError(
            f"offload={config.offload}: expected one process; found trainer.strategy="
            f"{config.trainer.get('strategy', 'auto')}, trainer.devices="
            f"{config.trainer.get('devices', 1)}. On several GPUs set trainer=fsdp2 and "
            "offload=[]: each then holds its share of every network."
        )
    if "reference" in config.offload and config.policy.lora is not None:
        raise ConfigError(
            "offload: expected a reference with weights of its own; found policy.lora, with which "
            "it is the policy without its adapters. Leave reference out, or set lora=none."
        )


def _check_devices(trainer: dict[str, Any]) -> None:
    accelerator = trainer.get("accelerator", "auto")
    if accelerator not in ACCELERATORS:
        raise ConfigError(
            f"trainer.accelerator={accelerator!r}: expected one of {' | '.join(ACCELERATORS)}."
        )
    strategy = trainer.get("strategy", "auto")
    word = strategy.get("_target_") if isinstance(strategy, dict) else strategy
    if word not in STRATEGIES:
        name = str(word).rpartition(".")[2].lower()
        family = next((known for known in REFUSED if name.startswith(known)), None)
        reason = REFUSED[family] if family else "a run starts its processes as these do"
        raise ConfigError(
            f"trainer.strategy={word!r}: expected auto, ddp or fsdp2, because {reason}. Set "
            f"trainer={'fsdp2' if family else 'ddp'}."
        )
    for option, most in (("devices", MOST_DEVICES), ("num_nodes", MOST_NODES)):
        count = trainer.get(option, 1)
        if isinstance(count, int) and (count > most or count < -1 or count == 0):
            raise ConfigError(f"trainer.{option}={count!r}: expected 1 to {most}.")
