"""What each process of a run will hold in memory, from shapes alone, before any weight is loaded.

Ours. Counted are what stays (weights, gradients, optimiser, reference, preference model) and the
largest of the phases that follow one another: sampling, anchors, scoring, update. Coefficients of
the activations are bytes that autograd keeps per token and layer of a Llama, measured; all
responses are taken to be as long as they may be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gprl_lightning.core.logprobs import CHUNK_SIZES, accelerator_chunk

GB = 1e9
LIBRARIES = 0.55e9  # the process with all of its imports, or a GPU's context
BYTES_4BIT = 0.516  # a weight in 4 bits, with its share of the scales, which are in 8 bits
# Bytes kept for the backward pass per token and layer, by number of the width, of the width of keys
# and values, and of the MLP's width.
KEPT = {"32": (42, 20, 16), "mixed": (46, 13, 9.3), "16": (34, 10, 8)}
# What an optimiser holds for each trained weight: its name, and bytes by those of the weight.
OPTIMIZERS: dict[str, tuple[str, Callable[[int], float]]] = {
    "adamw": ("optimiser (two moments)", lambda size: 2 * size),
    "adamw_masters": (
        "optimiser (float32 moments, masters)",
        lambda size: 8 + (4 if size < 4 else 0),
    ),
    # A scale in float32 for each block of 256 entries.
    "adamw_8bit": ("optimiser (moments in 8 bits)", lambda size: 2 * (1 + 4 / 256)),
}
KV_CACHE = "KV cache"
READ_AT_ONCE = 16_384  # tokens of prompts that pass through the layers before they are in a cache
# Numbers of the width, and of the MLP's, that a forward pass without gradients holds per token.
PASSING = (8, 3)


@dataclass(frozen=True)
class Network:
    """The shape of a decoder.

    Attributes:
        parameters: of the whole network.
        trainable: those with gradients; of adapters alone, with LoRA.
        width: of hidden states.
        inner: width inside the MLP.
        kv_width: of one token's keys, as of its values.
        layers: decoder layers.
        vocabulary: rows of the output layer; 0 where there is none.
        bytes: of one weight.
        quantized: how many of the parameters are held in 4 bits.
    """

    parameters: int
    trainable: int
    width: int
    inner: int
    kv_width: int
    layers: int
    vocabulary: int
    bytes: int
    quantized: int = 0

    @property
    def held(self) -> float:
        """Bytes of all weights as they lie in memory."""
        return (self.parameters - self.quantized) * self.bytes + self.quantized * BYTES_4BIT


@dataclass(frozen=True)
class Work:
    """How much a process does at a time.

    Attributes:
        prompts: per iteration.
        group_size: responses to each.
        prompt_tokens: at most.
        new_tokens: at most.
        rows: responses in one forward pass of the update.
        scored_rows: conversations in one forward pass of the preference model.
        mixed: whether weights are in float32 and products in bfloat16.
        checkpointing: whether activations are made again in the backward pass.
        adapters: whether the reference is the policy without its adapters.
        buckets: whether DDP keeps a second copy of the gradients.
        shared: whether a prompt's keys and values are held once for its group.
        on_cpu: whether it computes on a CPU.
        packed: whether the sampler decodes on a packed copy of the weights.
        optimizer: which of `OPTIMIZERS`.
        shards: processes over which weights, gradients and moments are spread (``trainer=fsdp2``).
        gather: whether they hold a network whole where no gradients are made.
        memory: of the device, in bytes.
        anchors: prompts that the reference answers at once, for the drift monitor.
        offloaded: what waits on the CPU between its turns: reference, preference_model, judges.
    """

    prompts: int
    group_size: int
    prompt_tokens: int
    new_tokens: int
    rows: int
    scored_rows: int
    mixed: bool
    checkpointing: bool
    adapters: bool
    buckets: bool
    shared: bool
    on_cpu: bool
    packed: bool = False
    optimizer: str = "adamw"
    shards: int = 1
    gather: bool = True
    memory: float = 80 * GB
    anchors: int = 0
    offloaded: tuple[str, ...] = ()


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by what holds them.

    Attributes:
        resident: what stays from the first update on.
        phases: what is held besides in each phase; one phase at a time.
    """

    resident: dict[str, float]
    phases: dict[str, dict[str, float]]

    @property
    def peak(self) -> float:
        """All that stays, and the largest phase."""
        return max(self.during(phase) for phase in self.phases)

    def during(self, phase: str) -> float:
        """All that stays, and a phase."""
        return sum(self.resident.values()) + sum(self.phases[phase].values())


def memory_plan(policy: Network, scorers: Mapping[str, Network], work: Work) -> MemoryPlan:
    """Return what a process will hold.

    Args:
        policy: the network that is trained.
        scorers: networks that score responses, by what they are; a language model at an endpoint or
            a Python function has none.
        work: sizes of the run.
    """
    weights, trained = policy.held, policy.trainable * policy.bytes
    optimizer, bytes_of = OPTIMIZERS[work.optimizer]
    held = policy.trainable * bytes_of(policy.bytes)
    saved = (trained if work.adapters else weights) + held
    whole = trained if work.adapters else 0  # adapters are on each process
    sharded, shards = work.shards > 1, work.shards
    of_trained = 1 if work.adapters else shards
    resident = {
        "weights": whole + (weights - whole) / shards,
        "gradients": trained / of_trained,
        optimizer: held / of_trained,
        "reference": 0 if work.adapters or "reference" in work.offloaded else weights / shards,
        **{
            n: s.parameters * s.bytes / _spread(n, work)
            for n, s in scorers.items()
            if not _waits(n, work)
        },
        # Shards are gathered in bfloat16: nothing else is cast.
        "copies of the weights in bfloat16": 2 * policy.parameters * (work.mixed and not sharded),
        "packed weights for decoding": _packed(policy, work) if work.packed else 0,
        KV_CACHE: _kv_cache(policy, work) if work.packed else 0,  # of captured steps: it stays
        "gradients in DDP's buckets": trained if work.buckets else 0,
        # Written as one block, for which freed activations leave no room in one piece. Elsewhere it
        # is the machine's memory that holds it, not the device's.
        "checkpoint as it is written": saved / of_trained if work.on_cpu else 0,
        "libraries": LIBRARIES,
    }
    phases = {"sampling": _sampling(policy, work), "update": _update(policy, work)}
    if work.anchors:
        phases["anchors"] = _sampled(policy, replace(work, prompts=work.anchors, group_size=1))
    if sharded:
        number = _computed(policy, work)
        for phase in {"sampling", "anchors"} & set(phases):
            phases[phase] |= _read(policy, number, "whole policy", work)
        phases["update"]["gathered layers"] = 2.0 * _gathered(policy) * number
    if scorers:  # one after another
        name, largest = max(scorers.items(), key=lambda item: sum(_scored(*item, work).values()))
        phases["scoring"] = _scored(name, largest, work)
        if sharded:
            phases["scoring"] |= _read(largest, largest.bytes, "whole preference model", work)
    if "reference" in work.offloaded:
        tokens = work.rows * (work.prompt_tokens + work.new_tokens)
        passing = _passing(policy, tokens, _computed(policy, work))
        phases["reference"] = {"activations": passing}
        for phase in {"reference", "anchors"} & set(phases):
            phases[phase]["reference at work"] = weights
    return MemoryPlan({name: float(size) for name, size in resident.items() if size}, phases)


def _read(network: Network, number: float, whole: str, work: Work) -> dict[str, float]:
    """What is gathered of a network that is read without gradients: all of it, or by layers."""
    if work.gather:
        return {whole: float(network.parameters * number)}
    return {"gathered layers": _gathered(network) * number}


def _scored(name: str, scorer: Network, work: Work) -> dict[str, float]:
    """What is held while one network scores: its weights, too, where they wait elsewhere."""
    weights = {f"{name} at work": scorer.held} if _waits(name, work) else {}
    return {"activations": _scoring(scorer, work), **weights}


def _waits(scorer: str, work: Work) -> bool:
    kind = "judges" if scorer.startswith("judge ") else "preference_model"
    return kind in work.offloaded


def _spread(scorer: str, work: Work) -> int:
    """Over how many processes a network that scores is spread: not a judge of the evaluation."""
    return 1 if scorer.startswith("judge ") else work.shards


def _gathered(policy: Network) -> float:
    """Weights of the two ends, which stay gathered, and of a layer; twice, with their gradients."""
    ends = min(2 * policy.vocabulary * policy.width, policy.parameters)
    return ends + (policy.parameters - ends) / max(policy.layers, 1)


def _packed(policy: Network, work: Work) -> int:
    """All weights but the two ends, which are the policy's own unless they are cast."""
    ends = 0 if work.mixed else 2 * policy.vocabulary * policy.width
    return (policy.parameters - min(ends, policy.parameters)) * _computed(policy, work)


def _sampling(policy: Network, work: Work) -> dict[str, float]:
    """What a rollout holds besides what stays."""
    held = _sampled(policy, work)
    return {name: size for name, size in held.items() if not (work.packed and name == KV_CACHE)}


def _sampled(policy: Network, work: Work) -> dict[str, float]:
    rows, read = work.prompts * work.group_size, work.prompts * work.prompt_tokens
    if work.packed:  # slice by slice, each put into the cache
        read = min(read, max(READ_AT_ONCE, work.prompt_tokens))
    logits = 3 * rows * policy.vocabulary * 4  # as they come, sorted or shifted, and their exp
    return {
        KV_CACHE: _kv_cache(policy, work),
        "logits": float(logits),
        "activations": _passing(policy, read, _computed(policy, work))
        + work.packed * read * _cached(policy, work),
    }


def _kv_cache(policy: Network, work: Work) -> float:
    rows = work.prompts * work.group_size
    prompt_rows = work.prompts if work.shared else rows
    tokens = prompt_rows * work.prompt_tokens + rows * work.new_tokens
    return float(tokens * _cached(policy, work))


def _cached(policy: Network, work: Work) -> int:
    """Bytes of a token's keys and values."""
    return 2 * policy.kv_width * policy.layers * _computed(policy, work)


def _scoring(scorer: Network, work: Work) -> float:
    tokens = work.scored_rows * (work.prompt_tokens + work.new_tokens)
    return _passing(scorer, tokens, scorer.bytes)


def _update(policy: Network, work: Work) -> dict[str, float]:
    groups = -(-work.rows // work.group_size) if work.shared else work.rows
    tokens = groups * work.prompt_tokens + work.rows * work.new_tokens
    kind = "mixed" if work.mixed else "16" if policy.bytes == 2 else "32"
    by_width, by_kv, by_inner = KEPT[kind]
    layer = tokens * (by_width * policy.width + by_kv * policy.kv_width + by_inner * policy.inner)
    kept = policy.layers * tokens * policy.width * (2 if kind == "16" else 4)
    number = _computed(policy, work)
    chunk = CHUNK_SIZES["cpu"]
    if not work.on_cpu and policy.vocabulary:
        chunk = accelerator_chunk(policy.vocabulary, work.memory)
    chunk = min(chunk, work.rows * work.new_tokens)
    head = policy.vocabulary * policy.width * 4 if policy.trainable == policy.parameters else 0
    return {
        # The layer in work has its activations, and as much again in passing gradients.
        "activations": float((kept + 2 * layer) if work.checkpointing else layer * policy.layers),
        "logits": float(chunk * policy.vocabulary * (number + 8)),
        "gradient of the output layer": float(head),
    }


def _computed(network: Network, work: Work) -> int:
    """Bytes of a number in products."""
    return 2 if work.mixed else network.bytes


def _passing(network: Network, tokens: int, number: int) -> float:
    by_width, by_inner = PASSING
    return float(tokens * number * (by_width * network.width + by_inner * network.inner))
