"""Sizes of the study that judges drift monitors as detectors (``task=detector_study``)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Interval, MinLen

from gprl_lightning.config.section import Count, Gain, Inside, Text, require, section


@section("detectors")
class DetectorStudyConfig:
    """The pool of responses, and the streams that are drawn from it.

    A stream's batches are ``data.prompts_per_step`` × ``rollout.group_size``; the monitors have the
    constants of ``drift``.
    """

    prompts: Count = 100  # of the sandbox's train requests, in the pool
    responses: Count = 16  # of the starting policy to each, besides its anchor
    steps: Count = 140
    onset: Count = 40  # the step at which an exploit sets in; after the calibration
    # steps until all are exploited
    ramps: Annotated[list[Count], MinLen(1)] = field(default_factory=lambda: [20, 60])
    strengths: Annotated[list[Literal[1, 2, 3]], MinLen(1)] = field(
        default_factory=lambda: [1, 2, 3]
    )
    learning: Gain = 4.0  # κ of healthy learning: how sharply better ones are preferred
    seeds: Count = 10  # streams of each exploit
    # streams of each healthy kind
    healthy_seeds: Annotated[int, Interval(ge=2), "half of them set the thresholds"] = 100
    false_alarms: Inside = 0.1  # share of healthy runs that every threshold lets alarm
    runs: list[Text] = field(default_factory=list)  # folders of real runs, or of grids of them
    # preference models that may disagree on them
    ensemble: list[Text] = field(default_factory=list)

    def __post_init__(self) -> None:
        before = self.onset < self.steps
        require("detectors.onset", before, self.onset, "in (0, detectors.steps)")
        many = len(self.ensemble) != 1
        require("detectors.ensemble", many, self.ensemble, "none, or two models or more")
