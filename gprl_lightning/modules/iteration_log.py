"""What one iteration of GPRL logs: its update, its scores, its seconds."""

from __future__ import annotations

from time import perf_counter

from torch import Tensor

from gprl_lightning.core.batch import ScoredRollout
from gprl_lightning.core.importance import ImportanceCorrection
from gprl_lightning.core.iteration import LogprobCheck, UpdateReport
from gprl_lightning.modules.statistics import mismatch_metrics, score_metrics
from gprl_lightning.runtime.processes import sum_over_processes
from gprl_lightning.tracking import metrics


class Laps:
    """Seconds between the ends of an iteration's stages, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = perf_counter()

    def end(self, name: str) -> None:
        """Note the seconds since the last end, or since the start."""
        now = perf_counter()
        self.seconds[name], self._since = now - self._since, now


def iteration_metrics(
    scored: ScoredRollout,
    report: UpdateReport,
    check: LogprobCheck,
    correction: ImportanceCorrection,
    seconds: dict[str, float],
    learning_rate: float,
) -> dict[str, Tensor | float]:
    """Return all figures of one iteration by name, the same on every process but for seconds.

    Args:
        scored: what was sampled and scored.
        report: what the update was like.
        check: how far the sampler lay from the policy.
        correction: the importance weights in force.
        seconds: of each stage.
        learning_rate: after the iteration's last optimiser step.
    """
    iteration = float(scored.rollout.prompts.iteration + 1)
    return {
        **report.metrics,
        **score_metrics(scored, seconds[metrics.TIME_ROLLOUT], sum_over_processes),
        **seconds,
        **mismatch_metrics(scored.rollout, correction, sum_over_processes),
        metrics.LOGPROB_MISMATCH: check.mismatch,
        metrics.LEARNING_RATE: learning_rate,
        metrics.ITERATION: iteration,
        "step": iteration,  # what loggers take as their x
    }
