"""What a decode step and an update ask of the device: kernels, launches, waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

from gprl_lightning.rollout.native import NativeSampler
from tests.gpu.correctness import DEVICE, SAMPLING, TEXTS, policy_on_device
from tests.tiny import tiny_prompts

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMemcpyAsync", "aten::item")
LAUNCHES = ("cudaLaunchKernel", "cudaGraphLaunch", "cuLaunchKernel")


def profiled(work: Callable[[], Any]) -> dict[str, Any]:
    """Run `work` once to warm up and once profiled: the ten longest operators, launches, waits."""
    work()
    activities = [ProfilerActivity.CPU]
    if DEVICE == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as found:
        work()
    events: Any = found.key_averages()
    on_device = DEVICE == "cuda"

    def microseconds(event: Any) -> float:
        return event.self_device_time_total if on_device else event.self_cpu_time_total

    longest = sorted(events, key=microseconds, reverse=True)[:10]
    return {
        "top": {event.key[:60]: round(microseconds(event)) for event in longest},
        "launches": sum(e.count for e in events if e.key.startswith(LAUNCHES)),
        "waits": sum(e.count for e in events if e.key.startswith(WAITS)),
    }


def rollout_profile() -> dict[str, Any]:
    """Of a whole rollout by a sampler that has captured its steps before."""
    policy, sampler = policy_on_device(layers=4), NativeSampler(fixed_shapes=True)
    prompts = tiny_prompts(policy, TEXTS).to(DEVICE)
    found = profiled(lambda: sampler.sample(policy, prompts, SAMPLING, 1))
    return {**found, "tokens per row": SAMPLING.max_new_tokens}
