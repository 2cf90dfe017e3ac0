"""What a configuration allows and a person would still want to know before its figures."""

from __future__ import annotations

from gprl_lightning.config.judging import PROXY, judge_specs
from gprl_lightning.config.run import Config


def setup_cautions(config: Config, num_axes: int) -> list[str]:
    """Return a sentence for each doubtful choice of a policy's training; none stops the run.

    Args:
        config: the whole configuration.
        num_axes: k of the reward, as it was found.
    """
    found: list[str] = []
    if list(judge_specs(config.evaluation)) == [PROXY]:
        found.append(
            "the judge is the reward itself: the held-out win rate has no independent witness. "
            "Set evaluation.judge to something that the reward never saw."
        )
    drift = config.drift
    shares = drift.enabled and drift.statistic == "variance_share"
    if shares and num_axes == 1:
        found.append(
            "the reward has one axis: its share of the variance is always 1, so that the paper's "
            "drift monitor cannot act. Set drift=surprise, or drift=disabled."
        )
    if drift.enabled and drift.calibration_steps >= config.iterations:
        found.append(
            f"drift.calibration_steps={drift.calibration_steps} of iterations="
            f"{config.iterations}: the drift monitor calibrates to the end and never acts. Set "
            "fewer, or more iterations."
        )
    return found
