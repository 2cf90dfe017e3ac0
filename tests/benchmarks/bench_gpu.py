"""A Llama-3-8B on one GPU: rollout, update, memory, and how near they are to the device's limits.

    python -m tests.benchmarks.bench_gpu [--shape 8b | 1b] [--full] [--prompts 4]
        [--micro-batch 4] [--profile kernels.json] [overrides]  # rows in a forward pass of TRL's
    python -m tests.benchmarks.bench_gpu --toy        # a small model, on whatever there is

Random weights of that shape in bfloat16, with LoRA or (``--full``) all of it trained; G = 8, 512
new tokens, a preference model of the policy's size; two iterations after one that warms up. Beside
it TRL, where it is installed. Limits are measured on the device: the rate of a large matrix
product, for the model-FLOPs utilisation (MFU) of the update, and of a copy, for decoding, which
reads all weights and the KV cache once per token.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import mean
from time import perf_counter

import torch

from gprl_lightning.tracking import metrics
from tests.benchmarks.bench_trl import CACHE
from tests.benchmarks.contest import trl
from tests.benchmarks.recording import WALL, Profile, recorded
from tests.benchmarks.setups import Setup, Shape, World, make_world

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
LLAMA_3_8B = Shape(4096, 32, 128_256, mlp=14_336, heads=32, kv_heads=8, tied=False)
LLAMA_3_1B = Shape(2048, 16, 128_256, mlp=8192, heads=32, kv_heads=8)
LARGE = {
    name: Setup(f"llama-3-{name}", shape, 4, 8, 256, 512, mean_length=None, dtype=torch.bfloat16)
    for name, shape in (("8b", LLAMA_3_8B), ("1b", LLAMA_3_1B))
}
PROFILE = "+callbacks.profile._target_=tests.benchmarks.recording.Profile"
TOY = Setup("toy", Shape(64, 2, 512, mlp=128), 2, 4, 24, 12, mean_length=None)


def weights(shape: Shape) -> int:
    """Of what a token is multiplied with: layers and output layer, not the embedding."""
    head = shape.width // shape.heads
    attention = 2 * shape.width * head * (shape.heads + shape.kv_heads)
    return shape.layers * (attention + 3 * shape.width * shape.mlp) + shape.vocabulary * shape.width


def update_flops(setup: Setup, lora: bool) -> float:
    """Model FLOPs of an iteration's forwards and backwards with each prompt read once.

    Per token and weight 2 forwards, 2 for the gradient by the input, and 2 for that by the weight,
    which adapters do without; attention by the tokens before. Nothing computed twice counts.
    """
    shape, prompt, new = setup.shape, setup.prompt_tokens, setup.new_tokens
    assert shape is not None
    tokens = setup.prompts * prompt + setup.rollouts * new
    looked_at = setup.prompts * prompt**2 / 2 + setup.rollouts * new * (prompt + new / 2)
    matrices = (4 if lora else 6) * weights(shape) * tokens
    attention = 3 * 4 * shape.layers * shape.width * looked_at
    return setup.updates * (matrices + attention)


def matmul_rate(dtype: torch.dtype, size: int) -> float:
    """FLOP/s of a square matrix product."""
    a = torch.randn(size, size, device=DEVICE, dtype=dtype)
    return 2 * size**3 / _seconds(lambda: a @ a)


def copy_rate(size: int) -> float:
    """Bytes per second that a copy reads and writes."""
    a = torch.ones(size, dtype=torch.uint8, device=DEVICE)
    b = torch.empty_like(a)
    return 2 * size / _seconds(lambda: b.copy_(a))


def _seconds(work, repeats: int = 10) -> float:
    work()
    _wait()
    start = perf_counter()
    for _ in range(repeats):
        work()
    _wait()
    return (perf_counter() - start) / repeats


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def decoding_limit(setup: Setup, bandwidth: float) -> float:
    """Tokens per second of all rows, were reading weights and KV cache all that takes time."""
    shape, size = setup.shape, setup.dtype.itemsize
    assert shape is not None
    head = shape.width // shape.heads
    context = setup.prompt_tokens + setup.new_tokens / 2
    cache = setup.rollouts * context * 2 * shape.layers * shape.kv_heads * head
    return setup.rollouts * bandwidth / (size * (weights(shape) + cache))


def on_this_device(setup: Setup, lora: bool) -> list[str]:
    dtype = str(setup.dtype).removeprefix("torch.")
    options = [
        f"policy.dtype={dtype}",
        f"preference_model.dtype={dtype}",
        "preference_model.max_tokens=2048",
        "data.max_prompt_tokens=2048",
        f"lora={'adapters' if lora else 'none'}",
    ]
    if ON_GPU:  # which takes micro-batches as large as its memory has room for
        options += ["trainer=gpu", "trainer.precision=32-true", "algorithm.micro_batch_size=null"]
        options += [] if lora else ["optimizer=adamw_masters"]
    return options


def ours(setup: Setup, world: World, lora: bool, more: list[str]) -> None:
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    started = perf_counter()
    rows = recorded(setup, world, 2, *on_this_device(setup, lora), *more)
    names = (WALL, metrics.TIME_ROLLOUT, metrics.TIME_SCORE, metrics.TIME_UPDATE)
    whole, rollout, score, update = (mean(row[name] for row in rows) for name in names)
    speed = mean(row[metrics.TOKENS_PER_SECOND] for row in rows)
    seconds = perf_counter() - started
    print(f"{len(rows) + 1} iterations, with all that begins a run, took {seconds:.0f} s")
    size = 8192 if ON_GPU else 512
    peak, bandwidth = matmul_rate(setup.dtype, size), copy_rate(2**30 if ON_GPU else 2**26)
    limit, mfu = decoding_limit(setup, bandwidth), update_flops(setup, lora) / update / peak
    print(
        f"iteration {whole:.2f} s: rollout {rollout:.2f}, scores {score:.2f}, update {update:.2f}"
    )
    print(f"rollout: {speed:.0f} tokens/s, {speed / limit:.1%} of the {limit:.0f} that reading")
    print(f"  weights and KV cache at {bandwidth / 1e9:.0f} GB/s allows")
    print(f"update: {mfu:.1%} MFU, of {peak / 1e12:.3g} TFLOP/s that a matrix product reaches")
    if ON_GPU:
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
        torch.cuda.empty_cache()


def theirs(setup: Setup, world: World, lora: bool, micro_batch: int) -> None:
    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed: pip install -e '.[bench]'")
        return
    with closing(trl(setup, world, {}, micro_batch, lora)) as run:
        run.turn(1)
        found = run.turn(1)
    speed = setup.rollouts * found["mean_length"] / found["rollout_seconds"]
    print(
        f"TRL: iteration {found['wall_seconds']:.2f} s: rollout {found['rollout_seconds']:.2f},",
        end="",
    )
    print(f" {speed:.0f} tokens/s; reward in Python")
    if ON_GPU:
        print(f"  peak memory: {found['device_peak_bytes'] / 1e9:.1f} GB")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--shape", choices=[*LARGE], default="8b")
    parser.add_argument("--full", action="store_true", help="train all weights, not adapters")
    parser.add_argument("--prompts", type=int, default=4, help="per iteration; 8 responses each")
    parser.add_argument("--micro-batch", type=int, default=4, help="TRL's; ours: what fits")
    parser.add_argument("--without-trl", action="store_true")
    parser.add_argument("--profile", type=Path, help="a JSON of the longest kernels")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args(arguments)
    setup = TOY if options.toy else replace(LARGE[options.shape], prompts=options.prompts)
    if not (ON_GPU or options.toy):
        parser.error("no CUDA device; --toy runs a small model on the CPU")
    started = perf_counter()
    world = make_world(setup, options.cache)
    print(f"models of that shape were made in {perf_counter() - started:.0f} s", flush=True)
    device = torch.cuda.get_device_name() if ON_GPU else "CPU"
    how = "all weights" if options.full else "LoRA"
    print(f"{setup.name} on {device}, {how}: {setup.prompts} prompts, G = {setup.group_size}")
    more = [*options.overrides, *([PROFILE] if options.profile else [])]
    ours(setup, world, not options.full, more)
    if options.profile:
        options.profile.write_text(json.dumps(Profile.found, indent=1))
    if not options.without_trl:
        theirs(setup, world, not options.full, options.micro_batch)


if __name__ == "__main__":
    main()
