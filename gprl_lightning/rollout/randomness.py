"""Counter-based random numbers: a function of what they are for, not of when or where they are
drawn.

A response's randomness depends on (seed, iteration, prompt, response, step) alone. So it is the
same in any batch order, after any compaction, on any number of processes and on every device, and
there is no generator whose state a resume would have to restore.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the same 64 bits, as torch has no arithmetic on unsigned ones."""
    return value - (1 << 64) if value >= 1 << 63 else value


GOLDEN = _signed(0x9E3779B97F4A7C15)
MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _shift(bits: Int[Tensor, " rows"], count: int) -> Int[Tensor, " rows"]:
    """Logical right shift; torch's is arithmetic on int64."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _mix(bits: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """SplitMix64's finaliser: every input bit flips every output bit with probability near 1/2."""
    bits = (bits ^ _shift(bits, 30)) * MULTIPLIERS[0]
    bits = (bits ^ _shift(bits, 27)) * MULTIPLIERS[1]
    return bits ^ _shift(bits, 31)


def stream_keys(
    seed: int, iteration: int, uids: Int[Tensor, " rows"], response_index: Int[Tensor, " rows"]
) -> Int[Tensor, " rows"]:
    """Return one 64-bit key for each response, from which `draw` makes its numbers.

    Args:
        seed: the run's seed.
        iteration: the RL iteration.
        uids: the stable number of each row's prompt.
        response_index: the row's place in its group, 0 … G-1.
    """
    key = torch.zeros_like(uids)
    for part in (seed, iteration, uids, response_index):
        # Chained, not summed: (uid 1, response 2) and (uid 2, response 1) must part ways.
        key = _mix((key ^ part) + GOLDEN)
    return key


def draw(keys: Int[Tensor, " rows"], step: int | Int[Tensor, " 1"]) -> Float[Tensor, " rows"]:
    """Draw one float32 in (0, 1) per row: SplitMix64 (Steele et al. 2014) at ``step``.

    23 bits, centred in their cells, so that neither 0 nor 1 can come out. A step that lies on the
    device gives the same numbers.
    """
    if isinstance(step, int):
        offset = _signed((step + 1) * GOLDEN % (1 << 64))
    else:
        offset = (step + 1) * GOLDEN  # int64 wraps around by itself
    bits = _shift(_mix(keys + offset), 41)
    return (bits.to(torch.float32) + 0.5) * 2.0**-23


def uniforms(
    seed: int,
    iteration: int,
    uids: Int[Tensor, " rows"],
    response_index: Int[Tensor, " rows"],
    step: int,
) -> Float[Tensor, " rows"]:
    """Return `draw` of `stream_keys`: the number of each row at one step, in (0, 1). Ours."""
    return draw(stream_keys(seed, iteration, uids, response_index), step)
