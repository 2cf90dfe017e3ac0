"""Detection and false alarms, counted over streams whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from jaxtyping import Float
from torch import Tensor

from gprl_lightning.study.detectors import Watch
from gprl_lightning.study.streams import loss_at, quarter_lost

Z = 1.959963984540054  # the normal quantile of a 95 % interval


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), in [0, 1].

    Raises:
        ValueError: no trials.
    """
    if trials < 1:
        raise ValueError("wilson: expected at least one trial, found none.")
    share, square = successes / trials, Z * Z / trials
    centre = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / trials + square / trials / 4)
    return max(centre - half, 0.0), min(centre + half, 1.0)


@dataclass(frozen=True)
class FalseAlarms:
    """Of healthy streams: how many alarmed at least once, and at how many of their steps."""

    runs: int
    alarmed_runs: int
    steps: int
    alarmed_steps: int

    @staticmethod
    def of(watches: Sequence[Watch], calibration_steps: int) -> FalseAlarms:
        watched = [watch.active[calibration_steps:] for watch in watches]
        return FalseAlarms(
            runs=len(watched),
            alarmed_runs=sum(bool(active.any()) for active in watched),
            steps=sum(len(active) for active in watched),
            alarmed_steps=sum(int(active.sum()) for active in watched),
        )


@dataclass(frozen=True)
class Detections:
    """Of exploited streams.

    Attributes:
        runs: streams.
        early: their first alarm came before the exploit: false, and not a detection.
        detected: their first alarm came with or after the onset.
        in_time: … and before the gold had lost a quarter of its peak; where it never does, as
            `detected`.
        lead: median steps from the alarm to that loss, over the detected ones; None where there is
            none.
        loss: median share of the gold's peak that is lost at the alarm; None where none detected.
    """

    runs: int
    early: int
    detected: int
    in_time: int
    lead: float | None
    loss: float | None

    @staticmethod
    def of(watches: Sequence[Watch], gold: Float[Tensor, " steps"], onset: int) -> Detections:
        """``gold``: the scenario's, by step, the mean over its streams."""
        firsts = [watch.first_alarm() for watch in watches]
        alarms = [first for first in firsts if first is not None and first >= onset]
        limit = quarter_lost(gold, onset)
        return Detections(
            runs=len(watches),
            early=sum(first is not None and first < onset for first in firsts),
            detected=len(alarms),
            in_time=sum(limit is None or alarm < limit for alarm in alarms),
            lead=median(limit - a for a in alarms) if alarms and limit is not None else None,
            loss=median(loss_at(gold, alarm) for alarm in alarms) if alarms else None,
        )
