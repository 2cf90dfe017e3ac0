"""Detection and false alarms, counted over streams whose truth is known.

Streams are drawn from one pool, of one policy and one preference model: the counts describe them,
and have no intervals. Real runs have: `detector_runs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from jaxtyping import Float
from torch import Tensor

from gprl_lightning.study.detectors import Watch
from gprl_lightning.study.streams import loss_at, loss_step


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
        in_time: … and before the gold had lost ten points.
        lead: median steps from the alarm to that loss, over the detected ones; None if there are
            none.
        loss: median win rate that is lost at the alarm; None if none is detected.
    """

    runs: int
    early: int
    detected: int
    in_time: int
    lead: float | None
    loss: float | None

    @staticmethod
    def of(watches: Sequence[Watch], gold: Float[Tensor, " steps"], onset: int) -> Detections:
        """Count a scenario whose exploit costs gold.

        Args:
            watches: of its streams.
            gold: by step, the mean over its streams.
            onset: of the exploit.

        Raises:
            ValueError: no gold is lost: then there is nothing to detect.
        """
        firsts = [watch.first_alarm() for watch in watches]
        alarms = [first for first in firsts if first is not None and first >= onset]
        limit = loss_step(gold, onset)
        if limit is None:
            raise ValueError("Detections: expected an exploit that costs gold; found none lost.")
        return Detections(
            runs=len(watches),
            early=sum(first is not None and first < onset for first in firsts),
            detected=len(alarms),
            in_time=sum(alarm < limit for alarm in alarms),
            lead=median(limit - a for a in alarms) if alarms else None,
            loss=median(loss_at(gold, alarm) for alarm in alarms) if alarms else None,
        )
