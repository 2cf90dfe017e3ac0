"""Sizes of the study that judges drift monitors as detectors (``task=detector_study``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from gprl_lightning.config.checks import at_least, require


@dataclass
class DetectorStudyConfig:
    """The pool of responses, and the streams that are drawn from it.

    A stream's batches are ``data.prompts_per_step`` × ``rollout.group_size``; the monitors have the
    constants of ``drift``.
    """

    prompts: int = 100  # of the sandbox's train requests, in the pool
    responses: int = 16  # of the starting policy to each, besides its anchor
    steps: int = 140
    onset: int = 40  # the step at which an exploit sets in; after the calibration
    ramps: list[int] = field(default_factory=lambda: [20, 60])  # steps until all are exploited
    strengths: list[int] = field(default_factory=lambda: [1, 2, 3])
    learning: float = 4.0  # κ of healthy learning: how sharply better responses are preferred
    seeds: int = 10  # streams of each exploit
    healthy_seeds: int = 100  # streams of each healthy kind
    false_alarms: float = 0.1  # share of healthy runs that every statistic's threshold lets alarm
    runs: list[str] = field(default_factory=list)  # folders of real runs, or of grids of them
    ensemble: list[str] = field(default_factory=list)  # preference models that may disagree on them

    def __post_init__(self) -> None:
        at_least("detectors", self, 1, "prompts", "responses", "steps", "seeds")
        at_least("detectors", self, 2, "healthy_seeds")  # half of them set the thresholds
        at_least("detectors", self, 0, "learning")
        key = "detectors."
        require(key + "onset", 0 < self.onset < self.steps, self.onset, "in (0, detectors.steps)")
        require(key + "ramps", all(r >= 1 for r in self.ramps), self.ramps, "each >= 1")
        share = self.false_alarms
        require(key + "false_alarms", 0 < share < 1, share, "in (0, 1)")
        size = len(self.ensemble)
        require(key + "ensemble", size != 1, self.ensemble, "none, or two models or more")
        strengths = self.strengths
        require(key + "strengths", {*strengths} <= {1, 2, 3}, strengths, "some of 1, 2, 3")
