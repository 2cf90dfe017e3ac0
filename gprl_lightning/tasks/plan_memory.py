"""``plan=true``: print what a run will hold in memory, before it loads anything, and stop there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gprl_lightning.config import Config
from gprl_lightning.config.judging import judge_specs
from gprl_lightning.config.trainer_checks import FSDP2
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.builtin import BUILTIN, policy_folder
from gprl_lightning.models.lora import with_lora
from gprl_lightning.models.memory_plan import GB, MemoryPlan, Network, Work, memory_plan
from gprl_lightning.models.quantized import quantizable
from gprl_lightning.modules.anchors import most_at_once
from gprl_lightning.runtime.ddp import processes_of

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
FILLED = 0.85  # of the device, by a micro-batch that is chosen: the plan is good to 15 %
NATIVE = "gprl_lightning.rollout.native.NativeSampler"


def plan_memory(config: Config) -> MemoryPlan:
    """Print the plan of a policy's training, per process.

    Raises:
        ConfigError: it exceeds the device (``plan_memory_gb``, or this machine's).
    """
    plan = planned(config)
    room = device_bytes(config)
    print(_table(plan, room))
    if plan.peak > room:
        raise ConfigError(
            f"plan: expected at most the device's {room / GB:.1f} GB per process; found "
            f"{plan.peak / GB:.1f} GB. Set lora=adapters, policy.gradient_checkpointing=true, "
            "trainer.precision=bf16-mixed or a smaller algorithm.micro_batch_size, or plan for "
            "another device with plan_memory_gb=..."
        )
    return plan


def planned(config: Config) -> MemoryPlan:
    """Return the plan: shapes come from the models' config.json, no weight is read."""
    path = policy_folder(config.policy.path, config.paths.cache)
    return memory_plan(_policy(config, path), _scorers(config, path), _work(config))


def _policy(config: Config, path: str) -> Network:
    options = config.policy
    quantized = options.quantization is not None
    return network(path, options.dtype, lora=options.lora, quantized=quantized, key="policy.path")


def fitting_tokens(config: Config) -> int:
    """Return the largest number of tokens of a micro-batch, with padding, with which the update
    stays within `FILLED` of the device by the plan; at least one rollout's."""
    options, rollout = config.algorithm, config.rollout
    longest = config.data.max_prompt_tokens + rollout.max_new_tokens
    rows = config.data.prompts_per_step * rollout.group_size // options.minibatches
    room = FILLED * device_bytes(config)
    path = policy_folder(config.policy.path, config.paths.cache)
    networks = _policy(config, path), _scorers(config, path)
    work = replace(_work(config), rows=rows)
    while rows > 1 and memory_plan(*networks, replace(work, rows=rows)).during("update") > room:
        rows = -(-rows // 2)
    return rows * longest


def _scorers(config: Config, policy: str) -> dict[str, Network]:
    """Return the networks that score, by what they are: the reward's, and those of judges."""
    options = config.preference_model
    found: dict[str, Network] = {}
    for name, part in options.parts.items():  # of preference_model=composed
        key, settings = f"preference_model.parts.{name}", dict(part)
        dtype = settings.get("dtype", "float32")
        path = str(settings.get("path", ""))
        found[f"preference model {name}"] = network(path, dtype, headless=True, key=f"{key}.path")
    if not (options.source or options.kind == "gold"):
        builtin = options.path in BUILTIN
        layers = config.preference_training.backbone_layers if builtin else None
        path, key = policy if builtin else options.path, "preference_model.path"
        one = network(path, options.dtype, headless=True, layers=layers, key=key)
        for i in range(options.members):  # of an ensemble, each as large
            found["preference model" if i == 0 else f"preference model {i + 1}"] = one
    for folder in options.folders:  # of preference_model=bt_ensemble
        found[f"preference model {folder}"] = network(
            folder, options.dtype, headless=True, key="preference_model.folders"
        )
    for name, spec in judge_specs(config.evaluation).items():
        if spec.kind == "model":
            dtype, path = spec.options.get("dtype", "float32"), spec.options["path"]
            found[f"judge {name}"] = network(path, dtype, headless=True, key=spec.path_key())
    return found


def network(
    path: str,
    dtype: str,
    *,
    lora: Any = None,
    headless: bool = False,
    layers: int | None = None,
    quantized: bool = False,
    key: str,
) -> Network:
    """Return the shape of the network in a folder or on the hub, built without memory.

    Args:
        headless: without its output layer, as a preference model's backbone.
        layers: its first so many; None: all.
        quantized: its matrices, but for the output layer, are held in 4 bits.

    Raises:
        ConfigError: no configuration there.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    try:
        place = Path(path).expanduser() if Path(path).exists() else path
        shape = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}={path}: expected a model's config.json; found {error}") from error
    text = shape.get_text_config()
    if layers is not None:
        text.num_hidden_layers = min(layers, text.num_hidden_layers)
    with torch.device("meta"):
        make = AutoModel if headless else AutoModelForCausalLM
        model: Any = make.from_config(shape)
        in_4_bits = quantizable(model) if quantized else 0
        model = model if lora is None else with_lora(model, lora)
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return Network(
        parameters=sum(size for size, _ in sizes),
        trainable=sum(size for size, trained in sizes if trained),
        width=text.hidden_size,
        inner=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        kv_width=head_width * (getattr(text, "num_key_value_heads", None) or heads),
        layers=text.num_hidden_layers,
        vocabulary=0 if headless else text.vocab_size,
        bytes=BYTES[dtype],
        quantized=in_4_bits,
    )


def _work(config: Config) -> Work:
    rollouts = config.data.prompts_per_step * config.rollout.group_size
    rows = config.algorithm.micro_batch_size or rollouts // config.algorithm.minibatches
    new, prompt = config.rollout.max_new_tokens, config.data.max_prompt_tokens
    if isinstance(config.algorithm.micro_batch_tokens, int):
        rows = max(1, min(rows, config.algorithm.micro_batch_tokens // (prompt + new)))
    trainer = config.trainer
    sampler = config.rollout.sampler
    sharded = trainer.get("strategy") == FSDP2
    return Work(
        prompts=config.data.prompts_per_step * config.algorithm.oversample,
        group_size=config.rollout.group_size,
        prompt_tokens=prompt,
        new_tokens=new,
        rows=rows,
        scored_rows=min(config.preference_model.batch_size, rollouts),
        # Under autocast weights of bfloat16 are what they are: nothing is cast, or held twice.
        mixed=str(trainer.get("precision", "")).endswith("mixed")
        and config.policy.dtype == "float32",
        checkpointing=config.policy.gradient_checkpointing,
        adapters=config.policy.lora is not None,
        buckets=str(trainer.get("strategy", "")).startswith("ddp") and trainer.get("devices") != 1,
        shared=sampler.get("_target_", NATIVE) == NATIVE,
        on_cpu=trainer.get("accelerator") == "cpu",
        packed=_packs(config),
        optimizer=_optimizer(config),
        shards=max(1, processes_of(trainer)) if sharded else 1,
        gather=config.rollout.gather,
        memory=device_bytes(config),
        anchors=_anchors(config),
        offloaded=tuple(config.offload),
    )


def _anchors(config: Config) -> int:
    prompts = config.data.prompts_per_step * config.algorithm.oversample
    longest = config.data.max_prompt_tokens + config.rollout.max_new_tokens
    return most_at_once(prompts, longest) if config.drift.enabled and config.drift.anchor else 0


def _optimizer(config: Config) -> str:
    """Which of `OPTIMIZERS` it is; another's state is taken for AdamW's."""
    target = str(config.optimizer.get("_target_", ""))
    known = {"AdamWMasters": "adamw_masters", "AdamW8bit": "adamw_8bit"}
    return known.get(target.rpartition(".")[2], "adamw")


def _packs(config: Config) -> bool:
    """Whether `NativeSampler` decodes in fixed shapes: as told, or on a GPU."""
    sampler = config.rollout.sampler
    told = sampler.get("fixed_shapes")
    on_gpu = config.trainer.get("accelerator") in ("gpu", "cuda")
    packs = (on_gpu if told is None else bool(told)) and config.trainer.get("strategy") != FSDP2
    return sampler.get("_target_", NATIVE) == NATIVE and packs


def device_bytes(config: Config) -> float:
    """Return the memory that a process may fill: the GPU's, or what the machine has free."""
    if config.plan_memory_gb is not None:
        return config.plan_memory_gb * GB
    if config.trainer.get("accelerator") != "cpu" and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    lines = Path("/proc/meminfo").read_text(encoding="utf8").splitlines()
    free = next(line for line in lines if line.startswith("MemAvailable"))
    return float(free.split()[1]) * 1024


def _table(plan: MemoryPlan, room: float) -> str:
    lines = ["memory of each process, in GB (every response as long as it may be)"]
    lines += [f"  {name:36}{size / GB:9.2f}" for name, size in plan.resident.items()]
    for phase, parts in plan.phases.items():
        lines += [f"  {phase + ': ' + name:36}{size / GB:9.2f}" for name, size in parts.items()]
    lines.append(f"  {'peak: what stays + the largest phase':36}{plan.peak / GB:9.2f}")
    lines.append(f"  {'the device has':36}{room / GB:9.2f}")
    return "\n".join(lines)
