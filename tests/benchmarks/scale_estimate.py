"""What an iteration would take on 8, 64, 512 GPUs, from published speeds: an estimate on paper.

Nothing here was measured. Each GPU has the prompts of one card (`PROMPTS`), so the batch grows with
the cluster; no communication is hidden behind the computing, so what overlaps makes it better.
"""

from __future__ import annotations

from dataclasses import dataclass

# An H100 SXM, by its data sheet; a node has eight, joined by NVLink; nodes by 400 Gb/s each GPU.
FLOPS, MEMORY, BANDWIDTH = 989e12, 80e9, 3.35e12
NVLINK, NETWORK, NODE = 450e9, 50e9, 8
MFU, DECODE = 0.45, 0.6  # of the peak and of the bandwidth: this project's targets
PROMPTS, GROUP, PROMPT_TOKENS, NEW_TOKENS, MICRO_BATCHES = 8, 8, 256, 512, 8
HALF, SINGLE = 2, 4  # bytes
STATE = 4 * SINGLE  # of a weight that is trained: itself, its gradient, two moments


@dataclass(frozen=True)
class Size:
    """A language model: weights, layers, and the width of its keys in a layer."""

    name: str
    weights: float
    layers: int
    kv_width: int


SIZES = (Size("8B", 8.0e9, 32, 1024), Size("70B", 70.6e9, 80, 1024))


@dataclass(frozen=True)
class Estimate:
    """An iteration, in seconds, and the bytes that a GPU holds of weights and optimiser."""

    rollout: float
    reading: float
    update: float
    communication: float
    held: float

    @property
    def total(self) -> float:
        return self.rollout + self.reading + self.update + self.communication


def estimate(size: Size, gpus: int, strategy: str, lora: bool = False) -> Estimate:
    """Return what an iteration takes of each GPU.

    Args:
        size: of policy, reference and preference model alike.
        gpus: in the cluster.
        strategy: ``ddp``, or ``fsdp2``, which shards over all of them.
        lora: train adapters of 1 % of the weights; the reference is the policy without them.
    """
    tokens = PROMPTS * (PROMPT_TOKENS + GROUP * NEW_TOKENS)  # a prompt is read once for its group
    trained = 0.01 * size.weights if lora else size.weights
    copies = 2 if lora else 3  # of half-precision weights: policy, preference model, reference
    held = copies * HALF * size.weights + STATE * trained
    sharded = strategy == "fsdp2"
    # A policy that one card does not hold is sampled by several together, each with its part.
    parts = 1
    while HALF * size.weights / parts > MEMORY / 2:
        parts *= 2
    rows = PROMPTS * GROUP
    keys = rows * 2 * HALF * size.layers * size.kv_width * (PROMPT_TOKENS / GROUP + NEW_TOKENS / 2)
    rollout = NEW_TOKENS * (HALF * size.weights / parts + keys) / (DECODE * BANDWIDTH)
    reading = 3 * 2 * size.weights * tokens / (MFU * FLOPS)  # old, reference, scores
    passes = 6 if lora else 8  # forward, again for the checkpoints, backward
    update = passes * size.weights * tokens / (MFU * FLOPS)
    share = (gpus - 1) / gpus
    if sharded:
        gathered = (2 * MICRO_BATCHES + 4) * HALF * size.weights
        sent = share * (gathered + MICRO_BATCHES * SINGLE * trained)
    else:
        sent = 2 * share * SINGLE * trained
    link = NVLINK if gpus <= NODE else NETWORK
    return Estimate(rollout, reading, update, sent / link, held / gpus if sharded else held)


def table() -> str:
    """Return the estimates as Markdown; what a card does not hold is not computed."""
    head = "| | GPUs | holds, GB | rollout, s | reading, s | update, s | communication, s | of it |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for size in SIZES:
        for lora in (True, False):
            for strategy in ("ddp", "fsdp2"):
                for gpus in (8, 64, 512):
                    found = estimate(size, gpus, strategy, lora)
                    name = f"{size.name} {'LoRA' if lora else 'full'}, {strategy}"
                    held = f"| {name} | {gpus} | {found.held / 1e9:.0f} |"
                    if found.held > 0.8 * MEMORY:
                        lines.append(f"{held} does not fit | | | | |")
                        continue
                    lines.append(
                        f"{held} {found.rollout:.1f} | {found.reading:.1f} | {found.update:.1f} "
                        f"| {found.communication:.2f} | {found.communication / found.total:.0%} |"
                    )
    return "\n".join(lines)
